//! A CPU that a reader of `/dev/fuse` shares with who asks: the thread that keeps the other from idling meanwhile is there for
//! that time alone. And what the threads of a ring weigh.

use std::fs;
use std::time::Duration;

use crate::fixture::{Mount, needs_ring, until};
use crate::{Outcome, Skipped, tests};

tests![
    while_one_asks_a_thread_keeps_the_other_cpu_from_idling_and_at_rest_none_does,
    without_a_shared_cpu_there_is_no_such_thread,
    threads_of_the_ring_weigh_more_than_others_where_they_may,
    where_it_is_left_to_the_scheduler_they_weigh_the_same,
];

/// What `/proc` says of each thread of the server.
fn stats(mount: &Mount) -> impl Iterator<Item = String> {
    let tasks = format!("/proc/{}/task", mount.server().as_raw_nonzero());
    fs::read_dir(tasks).unwrap().filter_map(|task| {
        // It may end before it is looked at.
        fs::read_to_string(task.ok()?.path().join("stat")).ok()
    })
}

/// CPU time of the thread that keeps a CPU from idling, in clock ticks; `None` where there is no such thread.
fn occupied(mount: &Mount) -> Option<u64> {
    stats(mount).find_map(|stat| {
        let fields = stat.split_once("(occupant) ")?.1.split_whitespace();
        Some(fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum())
    })
}

/// One caller, who asks for names that the kernel does not know yet.
fn ask(mount: &Mount, round: u32) {
    for n in 0..5000 {
        fs::metadata(mount.path(format!("{round}-{n}"))).unwrap_err();
    }
}

fn while_one_asks_a_thread_keeps_the_other_cpu_from_idling_and_at_rest_none_does() -> Outcome {
    if std::thread::available_parallelism().map_or(0, usize::from) != 2 {
        return Err(Skipped("a CPU is shared only where there are two".to_owned()));
    }
    let mount = Mount::with(&["--transport", "dev"])?;
    let mut round = 0;
    until("the other CPU is kept from idling", || {
        round += 1;
        ask(&mount, round);
        occupied(&mount).is_some_and(|ticks| ticks > 0)
    });
    // It is asked for a little longer than a request takes to come.
    std::thread::sleep(Duration::from_millis(200));
    let before = occupied(&mount);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(occupied(&mount), before, "nobody asks");
    Ok(())
}

fn without_a_shared_cpu_there_is_no_such_thread() -> Outcome {
    let mount = Mount::with(&["--transport", "dev", "--no-shared-cpu"])?;
    for round in 0..4 {
        ask(&mount, round);
        assert_eq!(occupied(&mount), None);
    }
    Ok(())
}

/// How nice the threads of a ring are, and the others.
fn niceness(mount: &Mount) -> (Vec<i32>, Vec<i32>) {
    let (ring, others): (Vec<String>, Vec<String>) =
        stats(mount).partition(|stat| stat.contains("(ring-"));
    let nice = |stats: Vec<String>| {
        let of = |stat: &String| {
            let (_, fields) = stat.rsplit_once(") ").unwrap();
            fields.split_whitespace().nth(16).unwrap().parse().unwrap()
        };
        stats.iter().map(of).collect()
    };
    (nice(ring), nice(others))
}

/// By how much the threads of a ring are less nice than the others.
fn weigh_more(options: &[&str]) -> Result<i32, Skipped> {
    needs_ring()?;
    let mount = Mount::with(&[&["--transport", "uring"], options].concat())?;
    fs::write(mount.path("file"), "text").unwrap();
    let (ring, others) = niceness(&mount);
    let (most, least) = (ring.iter().max().unwrap(), ring.iter().min().unwrap());
    assert_eq!(most, least, "{ring:?}");
    // The one of the least weight keeps a CPU from idling.
    Ok(others.iter().min().unwrap() - most)
}

fn threads_of_the_ring_weigh_more_than_others_where_they_may() -> Outcome {
    let more = weigh_more(&[])?;
    assert_eq!(more, if rustix::process::geteuid().is_root() { 4 } else { 0 });
    Ok(())
}

fn where_it_is_left_to_the_scheduler_they_weigh_the_same() -> Outcome {
    assert_eq!(weigh_more(&["--no-shared-cpu"])?, 0);
    Ok(())
}
