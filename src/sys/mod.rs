//! Every `unsafe` block: what the operating system offers, behind safe signatures.
