#!/bin/busybox sh
# /init of the kernel guest: the Linux NBD client itself against a server on the host.
#
# Talks to the host in lines over the second serial port: `ok TITLE`, `no TITLE: why`, `note TEXT`, and requests
# `do VERB [ARGUMENT]` (kill, start, resize BYTES), each answered with one line. /guest.conf sets what is tried:
# HOST PORT NAME CONNECTIONS BLOCK FILESYSTEMS PHASES MEBIBYTES.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmpfs /tmp
exec >/dev/ttyS0 2>&1
. /guest.conf
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
DEVICE=/dev/nbd0
QUEUE=/sys/block/nbd0/queue
REQUEST_SECONDS=3   # how soon requests of a dead connection are sent again on a new one
DEAD_SECONDS=60     # how long the kernel waits for a new connection before it fails requests

tell() { echo "$*" >&3; }
good() { tell "ok $*"; }
bad() { tell "no $*"; }
ask() { tell "do $*"; REPLY=; read -r -t 90 REPLY <&3; [ "$REPLY" = done ]; }
# step TITLE COMMAND...
step() {
  local title="$1"; shift
  if "$@" >/tmp/said 2>&1; then good "$title"; else bad "$title: exit $?: $(tail -n 3 /tmp/said | tr '\n' '|')"; return 1; fi
}
# until_true TENTHS COMMAND...
until_true() {
  local left=$1; shift
  while ! "$@" >/dev/null 2>&1; do left=$((left - 1)); [ $left -gt 0 ] || return 1; sleep 0.1; done
}
sectors() { cat /sys/block/nbd0/size; }
bytes() { blockdev --getsize64 $DEVICE; }
detached() { [ "$(sectors)" = 0 ]; }
attach() { nbd-client $HOST $PORT $DEVICE -N "$NAME" -b $BLOCK "$@"; }
attach_netlink() { nbdnl connect 0 $HOST $PORT "$NAME" $BLOCK $CONNECTIONS $REQUEST_SECONDS $DEAD_SECONDS; }
detach() { nbd-client -d $DEVICE && until_true 50 detached; }
make_fs() {
  case $1 in
    ext4) mkfs.ext4 -F -q -E lazy_itable_init=0,lazy_journal_init=0 $DEVICE;;
    xfs) mkfs.xfs -f -q $DEVICE;;
    btrfs) mkfs.btrfs -f -q $DEVICE;;
  esac
}
check_fs() {
  case $1 in
    ext4) e2fsck -fn $DEVICE;;
    xfs) xfs_repair -n $DEVICE;;
    btrfs) btrfs check $DEVICE;;
  esac
}
# fill DIRECTORY: sixty small files, a large one, a sparse one, and their sums beside them
fill() {
  local i
  mkdir -p $1/tree && cd $1/tree || return 1
  for i in $(seq 60); do dd if=/dev/urandom of=f$i bs=$((i * 37)) count=3 2>/dev/null || return 1; done
  dd if=/dev/urandom of=large bs=1M count=$MEBIBYTES conv=fsync 2>/dev/null || return 1
  dd if=/dev/urandom of=sparse bs=64k seek=400 count=1 conv=fsync 2>/dev/null || return 1
  sha256sum f* large sparse >../sums; cd / && sync
}
compare() { (cd $1/tree && sha256sum -c -s ../sums); }
fill_and_trim() {
  dd if=/dev/urandom of=$1/junk bs=1M count=$MEBIBYTES conv=fsync 2>/dev/null || return 1
  rm $1/junk; sync; fstrim -v $1
}
raw_data() {
  dd if=/dev/urandom of=/tmp/random bs=1M count=8 2>/dev/null
  dd if=/tmp/random of=$DEVICE bs=1M oflag=direct conv=fsync 2>/dev/null || return 1
  dd if=$DEVICE of=/tmp/back bs=1M count=8 iflag=direct 2>/dev/null && cmp /tmp/random /tmp/back
}
reads_zeros() { [ "$(dd if=$DEVICE bs=1M skip=$1 count=$2 iflag=direct 2>/dev/null | tr -d '\000' | wc -c)" = 0 ]; }
# The log since the last call must not tell of a failed request.
no_io_error() { dmesg -c >/tmp/log; ! grep -E 'I/O error|EXT4-fs error|Aborting journal' /tmp/log; }

phase_attach() {
  step "the export is listed (nbd-client -l)" nbd-client -l $HOST $PORT
  step "attach with $CONNECTIONS connections, blocks of $BLOCK" attach -C $CONNECTIONS || return 1
  step "nbd-client -c says attached" nbd-client -c $DEVICE
  [ "$(netstat -tn | grep -c ":$PORT .*ESTABLISHED")" = $CONNECTIONS ] && good "$CONNECTIONS sockets are open" || bad "$CONNECTIONS sockets are open: $(netstat -tn | grep -c ESTABLISHED)"
  [ "$(bytes)" -gt 0 ] && good "the size is known" || bad "the size is known"
  [ "$(blockdev --getro $DEVICE)" = 0 ] && good "it is writable" || bad "it is writable"
  tell "note $(for q in logical_block_size max_sectors_kb discard_max_bytes write_zeroes_max_bytes write_cache fua; do echo $q=$(cat $QUEUE/$q); done | tr '\n' ' ')"
  [ "$(cat $QUEUE/write_cache)" = "write back" ] && good "the kernel will flush" || bad "the kernel will flush: $(cat $QUEUE/write_cache)"
  [ "$(cat $QUEUE/discard_max_bytes)" -gt 0 ] && good "the kernel can discard" || bad "the kernel can discard"
  step "direct writes are read back" raw_data
  step "zero 64 MiB" blkdiscard -z -o 0 -l 67108864 $DEVICE
  step "it reads as zeros" reads_zeros 0 8
  step "direct writes again" raw_data
  step "discard the whole device" blkdiscard $DEVICE
  step "it reads as zeros again" reads_zeros 0 8
  step "detach" detach
}
phase_filesystems() {
  local fs
  for fs in $FILESYSTEMS; do
    [ $fs = ext4 ] || step "$fs: module" modprobe $fs || continue
    step "$fs: attach with $CONNECTIONS connections" attach -C $CONNECTIONS || return 1
    step "$fs: mkfs" make_fs $fs && step "$fs: mount" mount -t $fs $DEVICE /mnt || { detach; continue; }
    step "$fs: fill" fill /mnt
    step "$fs: fstrim" fill_and_trim /mnt && tell "note $fs: $(cat /tmp/said)"
    step "$fs: unmount" umount /mnt
    step "$fs: fsck" check_fs $fs
    step "$fs: detach" detach
    ask kill; ask start || bad "$fs: restart of the detached server"
    step "$fs: attach afresh with one connection" attach || return 1
    step "$fs: mount again" mount -t $fs $DEVICE /mnt
    step "$fs: checksums" compare /mnt
    step "$fs: unmount again" umount /mnt
    step "$fs: detach again" detach
    step "$fs: no I/O error in the kernel's log" no_io_error
  done
}
# A program that writes and syncs until /tmp/halt is there or a write fails; /tmp/passes counts.
writer() {
  local i=0
  while [ ! -e /tmp/halt ]; do
    i=$((i + 1))
    dd if=/dev/urandom of=/mnt/written bs=64k count=16 conv=fsync 2>/tmp/writer.said || { echo $i >/tmp/failed; return; }
    echo $i >/tmp/passes
  done
}
passed_or_failed() { [ -e /tmp/failed ] || [ "$(cat /tmp/passes)" -ge "$1" ]; }
writes_again() { until_true 300 passed_or_failed "$1" && [ ! -e /tmp/failed ]; }
# The server is killed under a writing program and started again, three times; nobody above the block layer may notice.
phase_reconnect() {
  local cut before began
  step "reconnect: attach, requests re-sent after $REQUEST_SECONDS s, connections awaited for $DEAD_SECONDS s" attach_netlink || return 1
  step "reconnect: mkfs" make_fs ext4; step "reconnect: mount" mount $DEVICE /mnt || return 1
  step "reconnect: fill" fill /mnt
  nbdnl watch 0 $HOST $PORT "$NAME" $CONNECTIONS >/tmp/watch 2>&1 & local watcher=$!
  dmesg -c >/dev/null; rm -f /tmp/halt /tmp/failed; echo 0 >/tmp/passes
  writer & local writing=$!
  for cut in 1 2 3; do
    sleep 2; ask kill; before=$(cat /tmp/passes); sleep 1
    ask start || bad "reconnect: the server starts again"
    began=$(cut -d. -f1 /proc/uptime)
    step "reconnect: writing goes on after kill $cut" writes_again $((before + 2)) || break
    tell "note writing again $(($(cut -d. -f1 /proc/uptime) - began)) s after restart $cut, $before passes before"
  done
  touch /tmp/halt; step "reconnect: the writer ends" until_true 300 sh -c "! kill -0 $writing"
  [ -e /tmp/failed ] && bad "reconnect: no write failed: $(cat /tmp/writer.said)" || good "reconnect: no write failed in $(cat /tmp/passes) passes"
  kill $watcher; tell "note $(tr '\n' ';' </tmp/watch)"
  step "reconnect: checksums" compare /mnt
  step "reconnect: no I/O error in the kernel's log" no_io_error
  step "reconnect: unmount" umount /mnt; step "reconnect: fsck" check_fs ext4
  step "reconnect: detach" detach
}
phase_resize() {
  local before after
  step "resize: attach" attach_netlink || return 1
  before=$(bytes); after=$((before + before / 2))
  step "resize: mkfs" make_fs ext4; step "resize: mount" mount $DEVICE /mnt || return 1
  step "resize: fill" fill /mnt
  ask resize $after || bad "resize: the server grows the volume"
  step "resize: the attached device grows" nbdnl resize 0 $after
  [ "$(bytes)" = $after ] && good "resize: from $before to $after bytes while mounted" || bad "resize: from $before to $after bytes while mounted: $(bytes)"
  step "resize: the filesystem grows while mounted" resize2fs $DEVICE
  step "resize: fill the new space" dd if=/dev/urandom of=/mnt/more bs=1M count=$MEBIBYTES conv=fsync
  step "resize: checksums" compare /mnt
  step "resize: unmount" umount /mnt; step "resize: fsck" check_fs ext4; step "resize: detach" detach
  step "resize: attach afresh" attach -C $CONNECTIONS
  [ "$(bytes)" = $after ] && good "resize: a new client sees the new size" || bad "resize: a new client sees the new size: $(bytes)"
  step "resize: detach again" detach
}

for module in virtio_pci virtio_net nbd ext4; do modprobe $module || bad "module $module"; done
ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0; ip route add default via 10.0.2.2
tell "note Linux $(uname -r), $(nbd-client -V 2>&1 | tr '\n' ' '), up after $(cut -d' ' -f1 /proc/uptime) s"
for phase in $PHASES; do
  tell "note phase $phase at $(cut -d' ' -f1 /proc/uptime) s"
  phase_$phase
done
tell end
sync; poweroff -f
