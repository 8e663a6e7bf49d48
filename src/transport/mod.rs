//! Carries whole messages between the kernel and the server, never reads them.
