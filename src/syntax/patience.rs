//! How long parsing may take, in time of the processor.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much of the processor's time the calling thread may take. What others take of it counts for nothing, so what is
/// found does not depend on them.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Duration,
}

impl Patience {
    /// So much from now on.
    #[must_use]
    pub fn of(time: Duration) -> Self {
        Self { until: used().saturating_add(time) }
    }

    /// Whether that was taken.
    #[must_use]
    pub fn is_over(&self) -> bool {
        used() >= self.until
    }
}

/// The time that this thread has taken.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative, and there are a billion nanoseconds at most.
    Duration::new(u64::try_from(used.tv_sec).unwrap_or(0), u32::try_from(used.tv_nsec).unwrap_or(0))
}
