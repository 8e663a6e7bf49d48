//! Processes that only wait, for what is asked about a caller in `/proc`.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

/// A `cat` that waits until it is dropped.
pub(crate) struct Waiting(Child);

impl Waiting {
    /// One with these variables of the environment and no others.
    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("cat");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        let command = command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // Once it answers, its `exec` is over, and `/proc` shows the whole of its environment.
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
