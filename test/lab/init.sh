#!/bin/sh
# Becomes PID 1 of one test host: builds the host's root from the machine's own, then hands over to systemd.
# machine.ts runs it in fresh mount, pid, uts and ipc namespaces and in the host's network namespace.
# usage: init.sh enter|build CGROUP DIRECTORY NAME HOSTS_FILE
set -eu
stage=$1 cgroup=$2 dir=$3 name=$4 hosts=$5
root=$dir/root

# The cgroup namespace must be made from inside the host's cgroup, so that systemd sees it as the top of the tree.
# Only this process moves there: a stranger in the top cgroup would keep systemd from enabling controllers.
enter() {
  echo 0 >"$cgroup/cgroup.procs"
  # This /proc is still the machine's, so what it calls "self" is our pid as the machine sees it.
  read -r outer_pid _ </proc/self/stat
  echo "$outer_pid" >"$dir/init.pid.new"
  mv "$dir/init.pid.new" "$dir/init.pid"
  exec unshare --cgroup sh "$0" build "$cgroup" "$dir" "$name" "$hosts"
}

mount_root() {
  # redirect_dir: without it, renaming a directory of the lower layer fails with EXDEV, which dpkg does all the time.
  mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work,redirect_dir=on" overlay "$root"
  mkdir -p "$root/proc" "$root/sys" "$root/dev" "$root/run" "$root/tmp" "$root/var/lib/docker"
  mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
  # Docker's overlay2 cannot stand on an overlay.
  mount --bind "$dir/docker" "$root/var/lib/docker"
}

# A private plain file in the place of a kernel setting: what the host writes there never reaches the machine.
stand_in() {
  [ -e "$root/proc/sys/$1" ] || return 0
  mount --bind "$2" "$root/proc/sys/$1"
}

mount_proc() {
  mount -t proc proc "$root/proc"
  # Most of /proc/sys is the machine's, not the namespace's: one sysctl would change every process on it.
  mount --bind "$root/proc/sys" "$root/proc/sys"
  mount -o remount,bind,ro "$root/proc/sys"
  mount --bind "$root/proc/sys/net" "$root/proc/sys/net"
  mount -o remount,bind,rw "$root/proc/sys/net"
  [ ! -e /proc/sysrq-trigger ] || mount --bind /dev/null "$root/proc/sysrq-trigger"
  # KWDB's unit has `ExecStartPre=sysctl -w vm.max_map_count=...`: it must succeed and must change nothing.
  cat /proc/sys/vm/max_map_count >"$dir/max_map_count"
  stand_in vm/max_map_count "$dir/max_map_count"
  # A reboot of the host must look like one.
  cat /proc/sys/kernel/random/uuid >"$dir/boot_id"
  stand_in kernel/random/boot_id "$dir/boot_id"
}

mount_devices() {
  mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
  for node in null zero full random urandom tty; do
    : >"$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
  done
  mkdir "$root/dev/pts" "$root/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
  mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/dev/shm"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  for pair in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${pair%%:*}" "$root/dev/${pair#*:}"; done
}

# Lines of `DIRECTORY/mounts`: what the test asked for, written by machine.ts.
mount_extras() {
  while read -r kind source target; do
    case $kind in
      share)
        mkdir -p "$root$target"
        mount --bind "$source" "$root$target"
        mount -o remount,bind,ro "$root$target"
        ;;
      ext4)
        mkdir -p "$root$target"
        mount -t ext4 -o loop "$source" "$root$target"
        rmdir "$root$target/lost+found" 2>/dev/null || :
        ;;
      tmpfs)
        mkdir -p "$root$target"
        mount -t tmpfs -o "size=$source,mode=755" tmpfs "$root$target"
        ;;
    esac
  done <"$dir/mounts"
}

# Once per host: take away what belongs to the machine, so that the host is a fresh installation of the same packages.
prepare() {
  tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
  echo "$name" >"$root/etc/hostname"
  : >"$root/etc/fstab"
  # No name server is in reach: an empty list makes a lookup fail at once instead of after seconds.
  rm -f "$root/etc/resolv.conf" "$root/usr/sbin/policy-rc.d" "$root"/etc/rc?.d/S*
  : >"$root/etc/resolv.conf"
  rm -rf "$root/var/log/journal"
  rm -f "$root/root/.bashrc" "$root/root/.profile" "$root/root/.bash_profile" "$root/root/.bash_login"
  for wants in "$root"/etc/systemd/system/*.wants; do rm -rf "$wants"; done
  for unit in systemd-sysctl.service systemd-modules-load.service systemd-timesyncd.service systemd-logind.service \
    systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-binfmt.service systemd-firstboot.service systemd-repart.service systemd-pstore.service \
    systemd-random-seed.service kmod-static-nodes.service getty.target console-getty.service \
    proc-sys-fs-binfmt_misc.automount dev-hugepages.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount sys-fs-fuse-connections.mount systemd-journald-audit.socket; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  : >"$dir/prepared"
}

build() {
  mount_root
  [ -e "$dir/prepared" ] || prepare
  mount_proc
  mount_devices
  : >>"$root/etc/hosts"
  mount --bind "$hosts" "$root/etc/hosts"
  mount_extras
  hostname "$name"
  mkdir "$root/run/machine"
  cd "$root"
  pivot_root . run/machine
  cd /
  umount -l /run/machine
  rmdir /run/machine
  exec env -i container=kwfleet-lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --system systemd.unit=multi-user.target
}

"$stage"
