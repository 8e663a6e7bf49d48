//! How the static binary is linked. Here, so that it is so wherever and with whatever variables it is built.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| {
        std::env::var(variable).is_ok_and(|values| values.split(',').any(|it| it == value))
    };
    if is("CARGO_CFG_TARGET_FEATURE", "crt-static") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        // A static binary relocates itself: 20,000 addresses, which take 24 bytes each, or as a bitmap (DT_RELR)
        // hardly more than a bit. glibc reads that since 2.36.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
