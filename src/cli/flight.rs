//! The flight recorder: what a server is at and what it answered last, written to a file of the store when it hangs
//! or when somebody asks (SIGUSR1).
//!
//! A thread of its own looks: what makes a request hang may be the very disk that the file is on.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Weak;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::proto::op::name;
use crate::view::View;

/// The file, in the store's directory.
pub(super) const FILE: &str = "flight-record.txt";
/// A request that is not answered for so long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whom to ask for a record. The thread ends with it, or with the view.
#[derive(Debug)]
pub(super) struct FlightRecorder {
    asked: SyncSender<()>,
}

impl FlightRecorder {
    pub(super) fn start(view: Weak<View>, store: &Path) -> Self {
        let (asked, asks) = sync_channel(1);
        let file = store.join(FILE);
        let look = move || Watch { view, file, told: false }.run(&asks);
        if let Err(err) = thread::Builder::new().name("recorder".into()).spawn(look) {
            tracing::warn!("nobody will see whether requests hang: no thread for it: {err}");
        }
        Self { asked }
    }

    /// Writes a record soon. Waits for nothing.
    pub(super) fn ask(&self) {
        // Full: it is asked already.
        let _ = self.asked.try_send(());
    }
}

struct Watch {
    view: Weak<View>,
    file: PathBuf,
    /// Whether what hangs was told.
    told: bool,
}

impl Watch {
    fn run(mut self, asks: &Receiver<()>) {
        loop {
            let asked = match asks.recv_timeout(LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let Some(view) = self.view.upgrade() else { return };
            if asked {
                match write(&self.file, &view.flight_record()) {
                    Ok(()) => tracing::info!("wrote {}", self.file.display()),
                    Err(err) => tracing::warn!("cannot write {}: {err}", self.file.display()),
                }
            }
            self.look(&view);
        }
    }

    /// Tells of a request that hangs, once until none does any more.
    fn look(&mut self, view: &View) {
        let oldest = view.waiting().into_iter().next();
        let Some(oldest) = oldest.filter(|oldest| oldest.age_ns >= HANGS_AFTER.as_nanos() as u64)
        else {
            self.told = false;
            return;
        };
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        // Said before it is written: that may hang as well.
        tracing::warn!(
            operation = name(oldest.opcode),
            pid = oldest.pid,
            command = oldest.command,
            "a request was not answered for {} s; the last requests go to {}",
            oldest.age_ns / 1_000_000_000,
            self.file.display()
        );
        if let Err(err) = write(&self.file, &view.flight_record()) {
            tracing::warn!("cannot write {}: {err}", self.file.display());
        }
    }
}

/// Replaces what was in the file: it says what others do, so only its owner may read it.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).write(true).truncate(true).mode(0o600).open(file)?;
    file.write_all(text.as_bytes())
}
