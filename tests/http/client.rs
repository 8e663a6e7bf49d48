//! A server of the real program in a directory of its own, and a client that sends what it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use lighthouse_fuse::sys;
use lighthouse_fuse::transport::{mount_table, unmount};
use rustix::process::{Pid, Signal};
use serde_json::Value;

/// How long anything may take before it counts as hung.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn program() -> &'static str {
    env!("CARGO_BIN_EXE_lighthouse-fuse")
}

/// A directory for a server; its mounts are ended when it goes.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().canonicalize().unwrap().join(name)
    }

    /// `lighthouse-fuse serve` here, without a mount unless `mount`.
    pub(crate) fn command(&self, mount: bool) -> Command {
        let mut command = Command::new(program());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LIGHTHOUSE") {
                command.env_remove(name);
            }
        }
        command
            .arg("serve")
            .env("LIGHTHOUSE_PORT", "0")
            .env("LIGHTHOUSE_EVENT_STORE_PATH", self.path("events"))
            .env("LIGHTHOUSE_MOUNT_POINT", self.path("at"))
            .env("LIGHTHOUSE_PROJECT_PATH", self.path("project"))
            .env("LIGHTHOUSE_DISABLE_FUSE", if mount { "0" } else { "1" })
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub(crate) fn serve(&self) -> Server {
        Server::start(&mut self.command(false))
    }

    /// A server that mounts and demands sessions; it logs whom it refused. With it `current/` of the mount.
    pub(crate) fn serve_sessions_alone(&self) -> (Server, PathBuf) {
        let mut command = self.command(true);
        command.env("LIGHTHOUSE_FUSE_REQUIRE_SESSION", "1").env("LIGHTHOUSE_LOG_LEVEL", "DEBUG");
        (Server::start(&mut command), self.path("at/current"))
    }

    /// The log of the store, as JSON lines.
    pub(crate) fn log(&self) -> String {
        let store = self.path("events/store");
        let log = run(&["log", "--json", "--store", store.to_str().unwrap()], &store);
        String::from_utf8(log.stdout).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Ok(root) = self.directory.path().canonicalize() else { return };
        for entry in mount_table::read().unwrap_or_default() {
            if entry.mountpoint.starts_with(&root) {
                let _ = unmount::abort(entry.minor);
                let _ =
                    rustix::mount::unmount(&entry.mountpoint, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}

/// A running server, killed at the end.
pub(crate) struct Server {
    pub(crate) child: Child,
    address: String,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let server = Self::start_early(command);
        within_deadline(|| {
            let health = server.get("/health").json();
            (health["status"] != "starting").then_some(())
        });
        server
    }

    /// As soon as it listens.
    pub(crate) fn start_early(command: &mut Command) -> Self {
        sys::process::die_with_parent(command);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        stderr.read_line(&mut said).unwrap();
        let address = said.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("it said {said:?}")).to_owned();
        Self { child, address, stderr: Some(stderr) }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// What it answers to these bytes, until it closes the connection. With `ends` it hears that no more come, which
    /// it may take for a client that went away.
    pub(crate) fn raw(&self, request: &[u8], ends: bool) -> Vec<u8> {
        let mut stream = self.connect();
        // It may answer and close before all is sent.
        let _ = stream.write_all(request);
        if ends {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let mut stream = self.connect();
        send(&mut stream, method, path, headers, body);
        Answer::read(&mut BufReader::new(stream), method == "HEAD")
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        self.ask("POST", path, &headers, body.to_string().as_bytes())
    }

    /// A session for `agent`.
    pub(crate) fn session(&self, agent: &str) -> Session<'_> {
        let body = serde_json::json!({ "agent_id": agent, "ip_address": "", "user_agent": "" });
        let made = self.post("/session/create", None, &body);
        assert_eq!(made.status, 200, "{made:?}");
        let token = made.json()["session_token"].as_str().unwrap().to_owned();
        Session { server: self, token }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end: the exit code, and what it said.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let status = within_deadline(|| self.child.try_wait().unwrap());
        let mut said = String::new();
        if let Some(mut stderr) = self.stderr.take() {
            stderr.read_to_string(&mut said).unwrap();
        }
        (status.code(), said)
    }

    pub(crate) fn stop(&mut self) -> String {
        self.signal(Signal::TERM);
        let (code, said) = self.end();
        assert_eq!(code, Some(0), "{said}");
        said
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody with a token.
pub(crate) struct Session<'s> {
    server: &'s Server,
    pub(crate) token: String,
}

impl Session<'_> {
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        let bearer = self.bearer();
        let mut all = vec![("authorization", bearer.as_str())];
        all.extend(headers);
        self.server.ask(method, path, &all, body)
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], b"")
    }

    pub(crate) fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.ask("PUT", path, &[], body)
    }

    pub(crate) fn store(&self, body: &Value) -> Answer {
        self.server.post("/event/store", Some(&self.token), body)
    }
}

pub(crate) fn send(
    stream: &mut TcpStream,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length =
        headers.iter().any(|(name, _)| matches!(*name, "content-length" | "transfer-encoding"));
    if !has_length && (!body.is_empty() || matches!(method, "PUT" | "POST")) {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    // It may refuse before all is sent.
    let _ = stream.write_all(body);
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn read(stream: &mut impl BufRead, no_body: bool) -> Self {
        let (status, headers) = read_head(stream);
        let mut body = Vec::new();
        if no_body || matches!(status, 204 | 304) {
        } else if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
            while let Some(chunk) = read_chunk(stream) {
                body.extend(chunk);
            }
        } else if let Some(len) = headers.get("content-length") {
            body.resize(len.parse().unwrap(), 0);
            stream.read_exact(&mut body).unwrap();
        } else {
            stream.read_to_end(&mut body).unwrap();
        }
        Self { status, headers, body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

pub(crate) fn read_head(stream: &mut impl BufRead) -> (u16, BTreeMap<String, String>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    (status, headers)
}

/// The next chunk of a body; `None` at its end, or where the connection ends.
pub(crate) fn read_chunk(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let len = usize::from_str_radix(line.trim(), 16).ok()?;
    let mut chunk = vec![0; len + 2];
    stream.read_exact(&mut chunk).ok()?;
    chunk.truncate(len);
    (len > 0).then_some(chunk)
}

/// Asks again and again until there is an answer.
#[track_caller]
pub(crate) fn within_deadline<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < DEADLINE, "nothing after {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs another command of the program to its end.
pub(crate) fn run(arguments: &[&str], directory: &Path) -> std::process::Output {
    Command::new(program()).args(arguments).current_dir(directory).output().unwrap()
}
