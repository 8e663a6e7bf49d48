//! What the store reads and a disk may have damaged, as a function of any bytes: what the fuzz targets and a plain
//! test run.
//!
//! None may panic; what is accepted is what would be written, and reads as the map says.

use std::sync::Arc;

use lighthouse_fuse::store::disk::{Disk, File};
use lighthouse_fuse::store::sim::SimDisk;
use lighthouse_fuse::store::squeezed::{Map, Squeezed};

/// Panics if its reader does, or reads something else than it should.
type Reader = fn(&[u8]);

/// Every target.
pub(crate) const TARGETS: [(&str, Reader); 1] = [("store_squeezed", squeezed)];

/// Runs the reader of the target `name`.
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no reader is called {name}")).1(bytes);
}

/// Any bytes as a squeezed segment: as they are, and with checksums made good, so that it comes to the rest.
fn squeezed(bytes: &[u8]) {
    read_squeezed(bytes);
    let mut bytes = bytes.to_vec();
    let Some(&[a, b, c, d]) = bytes.get(24..28) else { return };
    let map_len = u32::from_le_bytes([a, b, c, d]) as usize * 8;
    let map = bytes.get(36..36 + map_len).map(crc32c);
    if let Some(crc) = map {
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    }
    if bytes.len() >= 36 {
        bytes[..12].copy_from_slice(b"LhFuseSq\x02\0\0\0");
        let crc = crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        read_squeezed(&bytes);
    }
}

fn read_squeezed(bytes: &[u8]) {
    let decoded = Map::decode(bytes, bytes.len() as u64);
    let disk = SimDisk::new(1 << 30);
    let file = disk.open("segment", true).unwrap_or_else(|err| panic!("{err}"));
    file.write_at(bytes, 0).unwrap_or_else(|err| panic!("{err}"));
    let opened = Squeezed::open(&file).unwrap_or_else(|err| panic!("{err}"));
    let Some(Ok(segment)) = opened else {
        // Of a file too short to have a header, only one of the two says what is wrong with it.
        assert!(!matches!(decoded, Some(Ok(_))), "{decoded:?}");
        return;
    };
    let Some(Ok(map)) = decoded else { panic!("{decoded:?} of what can be opened") };
    assert_eq!(*segment.map(), Arc::new(map.clone()));
    let front = map.encode();
    assert_eq!(Some(&front[..]), bytes.get(..front.len()), "it is what would be written");
    let len = segment.len().unwrap_or_else(|err| panic!("{err}"));
    for offset in [0, 1, 511, 512, 1000, len / 2, len.saturating_sub(1), len, u64::MAX] {
        let mut buffer = [7; 3000];
        let read = segment.read_at(&mut buffer, offset).unwrap_or_else(|err| panic!("{err}"));
        assert_eq!(read as u64, len.saturating_sub(offset).min(3000));
        for (at, byte) in buffer[..read].iter().enumerate() {
            let at = offset + at as u64;
            let place = map.place_of(at).and_then(|place| usize::try_from(place).ok());
            assert_eq!(*byte, place.map_or(0, |place| bytes[place]), "byte {at}");
        }
    }
}

/// CRC-32C, bit by bit: the fuzz targets have no crate for it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}
