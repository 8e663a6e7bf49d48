//! The page cache of one inode, mappings, and write-back.
//!
//! Invariants: only whole pages are cached, zeros after the end of the file; a dirty page is dropped by truncation
//! alone. Write-back goes to the server without a user and with FUSE_WRITE_CACHE.

use std::collections::BTreeMap;

use crate::proto::op::{Op, Read, Write};
use crate::proto::types::{Errno, FileHandle, OpenFlags};

use super::call::{Call, Lock};
use super::inode::{Ino, STATX_ATIME, STATX_MODIFY};
use super::{PAGE, PAGE_U64};

#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: BTreeMap<u64, Page>,
    /// Grows whenever content changes or pages are dropped: what was being read meanwhile is not kept.
    generation: u64,
    /// A write-back that failed, for the next fsync or close.
    error: Option<Errno>,
}

#[derive(Debug)]
struct Page {
    bytes: Vec<u8>,
    dirty: bool,
}

/// A mapping of a file.
#[derive(Debug)]
pub(super) struct Map {
    /// The open file, which lives as long as the mapping.
    pub(super) file: u64,
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) shared: bool,
    pub(super) writable: bool,
    /// What a private mapping has written, by page of the file.
    pub(super) own: BTreeMap<u64, Vec<u8>>,
}

impl Pages {
    pub(super) fn has_dirty(&self) -> bool {
        self.pages.values().any(|page| page.dirty)
    }

    pub(super) fn has(&self, index: u64) -> bool {
        self.pages.contains_key(&index)
    }

    pub(super) fn page(&self, index: u64) -> Option<&[u8]> {
        self.pages.get(&index).map(|page| page.bytes.as_slice())
    }

    /// Drops every clean page.
    pub(super) fn clear(&mut self) {
        self.generation += 1;
        self.pages.retain(|_, page| page.dirty);
    }

    /// Drops the clean pages that `start..end` touches.
    pub(super) fn clear_range(&mut self, start: u64, end: u64) {
        self.generation += 1;
        let (first, after) = (start / PAGE_U64, end.div_ceil(PAGE_U64));
        self.pages.retain(|index, page| page.dirty || *index < first || *index >= after);
    }

    /// Drops everything after `size`, dirty or not.
    pub(super) fn truncate(&mut self, size: u64) {
        self.generation += 1;
        let whole = size / PAGE_U64;
        let tail = usize::try_from(size % PAGE_U64).unwrap_or(0);
        self.pages.retain(|index, _| *index < whole || (*index == whole && tail > 0));
        if let Some(page) = self.pages.get_mut(&whole) {
            page.bytes.iter_mut().skip(tail).for_each(|byte| *byte = 0);
        }
    }

    pub(super) fn put(&mut self, index: u64, bytes: Vec<u8>) {
        self.pages.entry(index).or_insert(Page { bytes, dirty: false });
    }

    /// Notes what was written through: whole pages come into the cache, parts change what is there.
    pub(super) fn written(&mut self, offset: u64, data: &[u8]) {
        self.generation += 1;
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let index = at / PAGE_U64;
            let from = usize::try_from(at % PAGE_U64).unwrap_or(0);
            let len = rest.len().min(PAGE - from);
            let (now, later) = rest.split_at(len);
            match self.pages.get_mut(&index) {
                Some(page) => {
                    for (to, byte) in page.bytes.iter_mut().skip(from).zip(now) {
                        *to = *byte;
                    }
                }
                None if len == PAGE => self.put(index, now.to_vec()),
                None => {}
            }
            at += len as u64;
            rest = later;
        }
    }

    /// Writes into a cached page through a mapping.
    pub(super) fn dirty(&mut self, index: u64, from: usize, data: &[u8]) {
        if let Some(page) = self.pages.get_mut(&index) {
            for (to, byte) in page.bytes.iter_mut().skip(from).zip(data) {
                *to = *byte;
            }
            page.dirty = true;
        }
    }

    /// Runs of dirty pages in `start..end`, none longer than `pages_max` pages, which are clean from now on.
    fn take_dirty(&mut self, start: u64, end: u64, pages_max: usize) -> Vec<(u64, Vec<u8>)> {
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        for (index, page) in &mut self.pages {
            let at = index.saturating_mul(PAGE_U64);
            if !page.dirty || at >= end || at + PAGE_U64 <= start {
                continue;
            }
            page.dirty = false;
            match runs.last_mut() {
                Some((run_at, bytes))
                    if *run_at + bytes.len() as u64 == at && bytes.len() < pages_max * PAGE =>
                {
                    bytes.extend_from_slice(&page.bytes);
                }
                _ => runs.push((at, page.bytes.clone())),
            }
        }
        runs
    }

    pub(super) fn store_error(&mut self, errno: Errno) {
        self.error.get_or_insert(errno);
    }

    pub(super) fn take_error(&mut self) -> Result<(), Errno> {
        self.error.take().map_or(Ok(()), Err)
    }

    pub(super) const fn generation(&self) -> u64 {
        self.generation
    }
}

impl Call<'_> {
    /// Writes dirty pages of `start..end` back, through any handle that can write.
    pub(super) fn write_back(&mut self, ino: Ino, start: u64, end: u64) {
        let lock = Lock::Pages(ino);
        let held = self.holds(&lock);
        self.lock(std::slice::from_ref(&lock));
        self.write_back_locked(ino, start, end);
        if !held {
            self.unlock_one(&lock);
        }
    }

    fn write_back_locked(&mut self, ino: Ino, start: u64, end: u64) {
        let connection = &self.st.connection;
        let pages_max = connection.max_pages.min(connection.max_write / PAGE).max(1);
        let size = self.st.inode(ino).attr.size;
        let runs = self.st.inode_mut(ino).pages.take_dirty(start, end, pages_max);
        if runs.is_empty() {
            return;
        }
        let handle = self
            .st
            .files
            .values()
            .find(|file| file.ino == ino && OpenFlags(file.flags).writes())
            .map(|file| FileHandle(file.handle));
        let Some(handle) = handle else {
            self.st.inode_mut(ino).pages.store_error(Errno::EIO);
            return;
        };
        let node = self.node(ino);
        let mut sent = Vec::new();
        for (offset, bytes) in &runs {
            let len = size.saturating_sub(*offset).min(bytes.len() as u64);
            let Some(data) = bytes.get(..usize::try_from(len).unwrap_or(0)) else { continue };
            if data.is_empty() {
                continue;
            }
            sent.push(self.send_nobody(&Op::Write(Write {
                node,
                handle,
                offset: *offset,
                data,
                flags: OpenFlags(0),
                lock_owner: None,
                from_cache: true,
                kill_suidgid: false,
            })));
        }
        for unique in sent {
            if let Err(errno) = self.finish(unique) {
                self.st.inode_mut(ino).pages.store_error(errno);
            }
        }
        self.st.touched(ino);
        self.st.inode_mut(ino).doubt(STATX_MODIFY);
    }

    pub(super) fn write_back_all(&mut self, ino: Ino) {
        self.write_back(ino, 0, u64::MAX);
    }

    /// Drops the cache of an inode, after writing back what is dirty (`invalidate_inode_pages2`).
    pub(super) fn invalidate_pages(&mut self, ino: Ino) {
        if self.st.inode(ino).pages.has_dirty() {
            self.write_back_all(ino);
        }
        self.st.inode_mut(ino).pages.clear();
    }

    /// The pages from `first` to `last`, from the cache or by READ; more is read ahead.
    pub(super) fn pages(
        &mut self,
        file: u64,
        first: u64,
        last: u64,
    ) -> Result<BTreeMap<u64, Vec<u8>>, Errno> {
        let (ino, handle, flags) = {
            let file = self.st.files.get(&file).ok_or(Errno::EBADF)?;
            (file.ino, FileHandle(file.handle), OpenFlags(file.flags))
        };
        let mut pages = BTreeMap::new();
        let inode = self.st.inode(ino);
        let end_page = inode.attr.size.div_ceil(PAGE_U64);
        let missing = (first..=last).any(|index| !inode.pages.has(index));
        let ahead = if missing { (self.st.connection.read_ahead / PAGE) as u64 } else { 0 };
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let run_max = self.st.connection.max_pages as u64;
        for index in first..(last + 1 + ahead).min(end_page.max(last + 1)) {
            if let Some(page) = inode.pages.page(index) {
                if index <= last {
                    pages.insert(index, page.to_vec());
                }
                continue;
            }
            match runs.last_mut() {
                Some((start, count)) if *start + *count == index && *count < run_max => *count += 1,
                _ => runs.push((index, 1)),
            }
        }
        let generation = inode.pages.generation();
        let version = inode.attr_version;
        let node = self.node(ino);
        let mut sent = Vec::new();
        for (start, count) in runs {
            let size = u32::try_from(count * PAGE_U64).map_err(|_| Errno::EINVAL)?;
            let op = Op::Read(Read {
                node,
                handle,
                offset: start * PAGE_U64,
                size,
                flags,
                lock_owner: None,
            });
            sent.push((start, count, self.send(&op)));
        }
        let mut failure = None;
        for (start, count, unique) in sent {
            let bytes = match self.finish(unique) {
                Ok(bytes) => bytes,
                // What was only read ahead is asked for again when it is wanted.
                Err(_) if start > last => continue,
                Err(errno) => {
                    failure.get_or_insert(errno);
                    continue;
                }
            };
            self.take_short_read(ino, start * PAGE_U64, bytes.len(), count, version);
            self.st.inode_mut(ino).doubt(STATX_ATIME);
            let keep = self.st.inode(ino).pages.generation() == generation;
            for index in start..start + count {
                let at = usize::try_from((index - start) * PAGE_U64).unwrap_or(usize::MAX);
                let mut page = bytes.get(at..).unwrap_or(&[]).to_vec();
                page.resize(PAGE, 0);
                if index <= last {
                    pages.insert(index, page.clone());
                }
                if keep {
                    self.st.inode_mut(ino).pages.put(index, page);
                }
            }
        }
        failure.map_or(Ok(pages), Err)
    }

    /// A READ that ends early means that the file ends there (`fuse_short_read`).
    fn take_short_read(&mut self, ino: Ino, at: u64, len: usize, pages: u64, version: u64) {
        let end = at + len as u64;
        let inode = self.st.inode_mut(ino);
        if (len as u64) < pages * PAGE_U64 && end < inode.attr.size && inode.attr_version == version
        {
            inode.attr.size = end;
            inode.pages.truncate(end);
            self.st.touched(ino);
        }
    }

    /// Reads from a mapping, `at` bytes after its start. EFAULT outside the file, where a process gets SIGBUS.
    pub(super) fn map_read(&mut self, map: u64, at: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = Vec::with_capacity(len);
        self.each_page(map, at, len, |call, index, from, len| {
            let own = call.st.maps.get(&map).and_then(|map| map.own.get(&index)).cloned();
            let page = match own {
                Some(page) => page,
                None => call.fault(map, index)?,
            };
            bytes.extend_from_slice(page.get(from..from + len).ok_or(Errno::EFAULT)?);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Writes to a mapping.
    pub(super) fn map_write(&mut self, map: u64, at: u64, data: &[u8]) -> Result<(), Errno> {
        if !self.st.maps.get(&map).ok_or(Errno::EFAULT)?.writable {
            return Err(Errno::EFAULT);
        }
        let mut done = 0;
        self.each_page(map, at, data.len(), |call, index, from, len| {
            let now = data.get(done..done + len).ok_or(Errno::EFAULT)?;
            done += len;
            loop {
                let page = call.fault(map, index)?;
                let mapping = call.st.maps.get_mut(&map).ok_or(Errno::EFAULT)?;
                if !mapping.shared {
                    let own = mapping.own.entry(index).or_insert(page);
                    for (to, byte) in own.iter_mut().skip(from).zip(now) {
                        *to = *byte;
                    }
                    return Ok(());
                }
                let ino = mapping.ino;
                let inode = call.st.inode_mut(ino);
                let size = inode.attr.size;
                let pages = &mut inode.pages;
                // What is stored after the end of the file is gone at the next write-back.
                let in_file = size.saturating_sub(index * PAGE_U64 + from as u64);
                let in_file = usize::try_from(in_file).unwrap_or(usize::MAX);
                let now = now.get(..in_file).unwrap_or(now);
                // Not there if somebody changed the file while the page was read: read it again.
                if pages.has(index) {
                    pages.dirty(index, from, now);
                    return Ok(());
                }
            }
        })
    }

    /// Calls `each` with page, offset in it, and length, for all pages of a stretch of a mapping.
    fn each_page(
        &mut self,
        map: u64,
        at: u64,
        len: usize,
        mut each: impl FnMut(&mut Self, u64, usize, usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mapping = self.st.maps.get(&map).ok_or(Errno::EFAULT)?;
        if at.checked_add(len as u64).is_none_or(|end| end > mapping.len) {
            return Err(Errno::EFAULT);
        }
        let (mut at, mut left) = (mapping.offset + at, len);
        while left > 0 {
            let from = usize::try_from(at % PAGE_U64).unwrap_or(0);
            let now = left.min(PAGE - from);
            each(self, at / PAGE_U64, from, now)?;
            at += now as u64;
            left -= now;
        }
        Ok(())
    }

    fn fault(&mut self, map: u64, index: u64) -> Result<Vec<u8>, Errno> {
        let mapping = self.st.maps.get(&map).ok_or(Errno::EFAULT)?;
        let (file, ino) = (mapping.file, mapping.ino);
        if index >= self.st.inode(ino).attr.size.div_ceil(PAGE_U64) {
            return Err(Errno::EFAULT);
        }
        self.pages(file, index, index)?.remove(&index).ok_or(Errno::EFAULT)
    }
}
