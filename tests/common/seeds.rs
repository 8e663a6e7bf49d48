//! Seeds of random runs, each printed before its run. `LIGHTHOUSE_FUSE_SEED=N` takes that one alone.

/// Those that are `usual`, or the one that is asked for.
pub(crate) fn of(usual: impl IntoIterator<Item = u64>) -> impl Iterator<Item = u64> {
    let one = std::env::var("LIGHTHOUSE_FUSE_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = usual.into_iter().filter(move |_| one.is_none()).chain(one);
    seeds.inspect(|seed| println!("LIGHTHOUSE_FUSE_SEED={seed}"))
}
