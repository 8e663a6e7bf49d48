//! The only place where protocol meets filesystem: requests come in, the view is asked, replies go out.
//!
//! ```text
//!  transport --receive--> connection --Op--> dispatch --> view
//!  transport <---send---- connection <--Reply-- dispatch <---
//!  transport <---send_notification---- news thread <--- what changed behind the kernel's back
//! ```

pub mod counters;
pub mod dispatch;
pub mod serve;

pub use counters::Counters;
pub use serve::{Config, Ended, Resumed, Server, serve};
