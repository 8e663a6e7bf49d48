//! What long work shows: a bar on a terminal, a line now and then elsewhere, nothing with `--quiet`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output;

/// Time between lines where standard error is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Progress of one piece of work, in units of something.
pub(super) struct Progress {
    shown: Shown,
    what: &'static str,
    total: u64,
    done: u64,
    tell: Option<Tell>,
}

/// Hears how much is done, and of how much.
type Tell = Box<dyn Fn(u64, u64)>;

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Begins work on `total` units; `what` says what is being done to what (`importing bytes`).
    pub(super) fn new(what: &'static str, total: u64, quiet: bool) -> Self {
        let shown = if quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            let template = "{msg} {wide_bar} {percent}% {bytes}/{total_bytes} {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Instant::now() }
        };
        Self { shown, what, total, done: 0, tell: None }
    }

    /// Tells somebody else too.
    pub(super) fn telling(self, tell: impl Fn(u64, u64) + 'static) -> Self {
        Self { tell: Some(Box::new(tell)), ..self }
    }

    /// `units` more are done.
    pub(super) fn advance(&mut self, units: u64) {
        self.done = self.done.saturating_add(units);
        if let Some(tell) = &self.tell {
            tell(self.done, self.total);
        }
        match &mut self.shown {
            Shown::Nothing => (),
            Shown::Bar(bar) => bar.set_position(self.done),
            Shown::Lines { last } if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                let percent = self.done.saturating_mul(100).checked_div(self.total).unwrap_or(100);
                output::say(format_args!(
                    "{}: {percent}% ({} of {})",
                    self.what,
                    output::size(self.done),
                    output::size(self.total)
                ));
            }
            Shown::Lines { .. } => (),
        }
    }

    /// Takes the bar away; what came of the work is said by whoever did it.
    pub(super) fn finish(self) {
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}
