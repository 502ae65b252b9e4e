"""A fresh ext4 file system on a loop image for every run: an aged one makes files more slowly."""

import os
import pathlib
import subprocess
import time


class Disk:
    """`path` is where the file system is mounted, after `fresh`."""

    def __init__(self, image_dir, mount_dir, gigabytes, inodes):
        self.image = pathlib.Path(image_dir) / f"headwater-peers-{os.getpid()}.img"
        self.path = pathlib.Path(mount_dir) / f"mnt-{os.getpid()}"
        self.gigabytes = gigabytes
        self.inodes = inodes

    def fresh(self):
        """Replaces the file system with an empty one."""
        self.remove()
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as image:
            image.truncate(int(self.gigabytes * 1e9))
        lazy = "lazy_itable_init=1,lazy_journal_init=1"
        make = ["mkfs.ext4", "-q", "-F", "-E", lazy, "-N", str(self.inodes), self.image]
        subprocess.run(make, check=True)
        # With `discard`, the image gives the space of removed files back.
        mount = ["mount", "-o", "loop,noatime,discard", self.image, self.path]
        subprocess.run(mount, check=True)

    def remove(self):
        """Unmounts and deletes the file system, if there is one."""
        for _ in range(100):
            if not os.path.ismount(self.path):
                break
            unmount = ["umount", self.path]
            if subprocess.run(unmount, check=False, stderr=subprocess.DEVNULL).returncode:
                time.sleep(0.2)
        self.image.unlink(missing_ok=True)
        if self.path.is_dir() and not os.path.ismount(self.path):
            self.path.rmdir()
