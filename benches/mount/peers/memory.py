"""A filesystem in memory on fusepy, mounted at the one argument.

Its best settings: one thread, for Python runs one at a time anyway; everything cached for an hour, pages kept over
opens, and writes of more than a page.
"""

import errno
import os
import stat
import sys
import time

import fuse


class Node:
    """A file, a directory or a symbolic link: what is in it says which."""

    __slots__ = ("attributes", "content")

    def __init__(self, mode, content, owner=None):
        now = time.time()
        user, group = owner or fuse.fuse_get_context()[:2]
        links = 2 if stat.S_ISDIR(mode) else 1
        self.attributes = dict(
            st_mode=mode, st_nlink=links, st_uid=user, st_gid=group, st_size=0, st_atime=now, st_mtime=now, st_ctime=now
        )
        self.content = content


class Memory(fuse.Operations):
    """Paths are walked from the root; what fusepy gives for a path is only that."""

    def __init__(self):
        self.root = Node(stat.S_IFDIR | 0o755, {}, (0, 0))

    def node(self, path):
        node = self.root
        for name in path.split("/"):
            if not name:
                continue
            if not isinstance(node.content, dict):
                raise fuse.FuseOSError(errno.ENOTDIR)
            node = node.content.get(name)
            if node is None:
                raise fuse.FuseOSError(errno.ENOENT)
        return node

    def parent(self, path):
        above, name = path.rsplit("/", 1)
        return self.node(above), name

    def add(self, path, node):
        parent, name = self.parent(path)
        if name in parent.content:
            raise fuse.FuseOSError(errno.EEXIST)
        parent.content[name] = node
        if isinstance(node.content, dict):
            parent.attributes["st_nlink"] += 1
        self.touch(parent)

    @staticmethod
    def touch(node):
        node.attributes["st_mtime"] = node.attributes["st_ctime"] = time.time()

    def getattr(self, path, fh=None):
        return self.node(path).attributes

    def readdir(self, path, fh):
        return [".", "..", *self.node(path).content]

    def mkdir(self, path, mode):
        self.add(path, Node(stat.S_IFDIR | mode, {}))

    def mknod(self, path, mode, dev):
        self.add(path, Node(mode, bytearray()))

    def create(self, path, mode, fi=None):
        self.add(path, Node(stat.S_IFREG | mode, bytearray()))
        return 0

    def symlink(self, target, source):
        node = Node(stat.S_IFLNK | 0o777, source)
        node.attributes["st_size"] = len(source.encode())
        self.add(target, node)

    def readlink(self, path):
        return self.node(path).content

    def link(self, target, source):
        node = self.node(source)
        self.add(target, node)
        node.attributes["st_nlink"] += 1

    def remove(self, path):
        parent, name = self.parent(path)
        node = parent.content.pop(name)
        node.attributes["st_nlink"] -= 1
        self.touch(parent)
        return parent

    def unlink(self, path):
        self.node(path)
        self.remove(path)

    def rmdir(self, path):
        if self.node(path).content:
            raise fuse.FuseOSError(errno.ENOTEMPTY)
        self.remove(path).attributes["st_nlink"] -= 1

    def rename(self, old, new):
        node = self.node(old)
        (above, name), (to, new_name) = self.parent(old), self.parent(new)
        replaced = to.content.get(new_name)
        if replaced is node:
            return
        if replaced is not None:
            (self.rmdir if isinstance(replaced.content, dict) else self.unlink)(new)
        del above.content[name]
        to.content[new_name] = node
        if isinstance(node.content, dict):
            above.attributes["st_nlink"] -= 1
            to.attributes["st_nlink"] += 1
        self.touch(above)
        self.touch(to)

    def read(self, path, size, offset, fh):
        return bytes(memoryview(self.node(path).content)[offset : offset + size])

    def write(self, path, data, offset, fh):
        node = self.node(path)
        content = node.content
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        node.attributes["st_size"] = len(content)
        self.touch(node)
        return len(data)

    def truncate(self, path, length, fh=None):
        node = self.node(path)
        if length < len(node.content):
            del node.content[length:]
        else:
            node.content.extend(bytes(length - len(node.content)))
        node.attributes["st_size"] = length
        self.touch(node)

    def chmod(self, path, mode):
        attributes = self.node(path).attributes
        attributes["st_mode"] = stat.S_IFMT(attributes["st_mode"]) | stat.S_IMODE(mode)

    def chown(self, path, uid, gid):
        attributes = self.node(path).attributes
        for key, value in (("st_uid", uid), ("st_gid", gid)):
            # libfuse gives -1 as an unsigned number.
            if value not in (-1, 0xFFFFFFFF):
                attributes[key] = value

    def utimens(self, path, times=None):
        attributes = self.node(path).attributes
        attributes["st_atime"], attributes["st_mtime"] = times or (time.time(), time.time())

    def statfs(self, path):
        return dict(f_bsize=4096, f_frsize=4096, f_blocks=1 << 24, f_bfree=1 << 23, f_bavail=1 << 23, f_namemax=255)


if __name__ == "__main__":
    fuse.FUSE(
        Memory(),
        sys.argv[1],
        foreground=True,
        nothreads=True,
        raw_fi=False,
        kernel_cache=True,
        hard_remove=False,
        big_writes=True,
        max_write=131072,
        max_read=131072,
        entry_timeout=3600,
        attr_timeout=3600,
        negative_timeout=3600,
        fsname="fusepy",
        allow_other=True,
        default_permissions=True,
    )
