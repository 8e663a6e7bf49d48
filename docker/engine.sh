# To be sourced: finds a container engine and what it needs to be told on this host.
#
# Sets `engine` (docker or podman; empty if neither works: a docker client without an engine does not) and
# `engine_options` (for `run` and `create`).

engine=
engine_options=()
for candidate in ${CONTAINER_ENGINE:-docker podman}; do
    # `info` asks the engine; other commands of the client answer without one.
    if command -v "$candidate" >/dev/null && timeout 30 "$candidate" info >/dev/null 2>&1; then
        engine=$candidate
        break
    fi
done
if [[ $engine = podman && $(podman info --format '{{.Host.CgroupsVersion}}') = v1 ]]; then
    # crun knows no cgroup v1; and podman asks for more open files and processes than an old host may allow.
    engine_options+=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
    if command -v runc >/dev/null; then
        engine_options+=(--runtime runc)
    fi
fi
