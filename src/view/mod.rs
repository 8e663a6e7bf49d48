//! What the mount shows, now or at a sequence.
