//! Random calls to the kernel in memory.

use lighthouse_fuse::proto::op::Whence;
use lighthouse_fuse::transport::memory::{Dice, Fd, User};

const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
const O_TMPFILE: u32 = 0o20_200_000;

/// Random calls in the directory `top`, which ends with a slash, whatever they return: what must hold is checked at the unmount.
pub(crate) fn random_calls(user: &User, dice: &mut Dice, steps: usize, top: &str) {
    let mut open: Vec<Fd> = Vec::new();
    for _ in 0..steps {
        let (path, other) = (random_path(dice, top), random_path(dice, top));
        let fd = open.get(dice.below(open.len())).copied();
        match dice.below(28) {
            0 | 1 => {
                let _ = user.mkdir(&path, 0o755);
            }
            2 => open.extend(user.open(&path, O_CREAT | O_RDWR, 0o644)),
            3 => open.extend(user.open(&path, O_CREAT | O_WRONLY, 0o644)),
            4 => open.extend(user.open(&path, O_RDWR | O_TRUNC, 0o644)),
            5 => {
                let _ = user.unlink(&path);
            }
            6 => {
                let _ = user.rmdir(&path);
            }
            7 => {
                let _ = user.rename(&path, &other);
            }
            8 => {
                let _ = user.rename_with(&path, &other, 1 + u32::from(dice.below(2) == 1));
            }
            9 => {
                let _ = user.link(&path, &other);
            }
            10 => {
                let _ = user.symlink(&path, &other);
            }
            11 => {
                let _ = user.statx(&path, 0xfff);
            }
            12 => {
                let _ = user.list(&path);
            }
            13 => {
                let _ = user.read_file(&path);
            }
            14 => {
                let _ = user.truncate(&path, dice.below(10_000) as u64);
            }
            15 => {
                let _ = user.chmod(&path, 0o700 + u32::try_from(dice.below(0o100)).unwrap_or(0));
            }
            16 => {
                let _ = user.set_xattr(&path, "user.x", b"value", 0);
            }
            17 => {
                let _ = user.xattr_names(&path);
            }
            18 => open.extend(user.open(top, O_TMPFILE | O_RDWR, 0o600)),
            19 => {
                let _ = fd.map(|fd| user.link_fd(fd, &path));
            }
            20 => {
                let _ = fd.map(|fd| user.pread(fd, dice.below(20_000), dice.below(9000) as u64));
            }
            21 | 22 => {
                let data = vec![u8::try_from(dice.below(256)).unwrap_or(0); dice.below(9000)];
                let _ = fd.map(|fd| user.pwrite(fd, &data, dice.below(9000) as u64));
            }
            23 => {
                if let Some(fd) = fd
                    && let Ok(map) = user.mmap(fd, 0, 8192, true, true)
                {
                    let _ = user.map_write(map, dice.below(8000) as u64, b"mapped");
                    let _ = user.munmap(map);
                }
            }
            24 => {
                let _ = fd.map(|fd| user.sync(fd, false));
            }
            25 => {
                let mode = [0, 1, 3][dice.below(3)];
                let _ = fd.map(|fd| user.fallocate(fd, mode, dice.below(9000) as u64, 5000));
            }
            26 => {
                let _ = fd.map(|fd| user.seek(fd, 100, Whence::Data));
            }
            _ => {
                if let Some(fd) = fd {
                    open.retain(|other| *other != fd);
                    let _ = user.close(fd);
                }
            }
        }
    }
    for fd in open {
        let _ = user.close(fd);
    }
}

/// A path in the directory `top`, of few names: what one call made, the next ones meet.
fn random_path(dice: &mut Dice, top: &str) -> String {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let names: Vec<_> = (0..=dice.below(3)).map(|_| NAMES[dice.below(4)]).collect();
    format!("{top}{}", names.join("/"))
}
