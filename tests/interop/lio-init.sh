#!/bin/sh
# The first process of the guest: loads LIO, brings up one interface per path, then runs the scripts that it is told.
# $braid_dir (from the kernel's command line) is a directory of the host that both sides see, $braid_paths a number.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin DM_DISABLE_UDEV=1
stty -echo
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Over a directory of the host that is always there; seen by the guest alone.
mount -t tmpfs tmpfs /mnt
cd "/usr/lib/uml/modules/$(uname -r)/kernel" || exit 1
load() { for module; do insmod "$module.ko" || exit 1; done; }
load fs/configfs/configfs drivers/scsi/scsi_common drivers/target/target_core_mod
mount -t configfs configfs /sys/kernel/config
# Where LIO keeps persistent reservations. It can be moved only while nothing uses it.
mkdir -p "$braid_dir/db/pr"
echo "$braid_dir/db" >/sys/kernel/config/target/dbroot || exit 1
load drivers/target/target_core_file drivers/target/target_core_iblock drivers/target/iscsi/iscsi_target_mod
load drivers/block/loop drivers/md/dm-mod
mkdir /sys/kernel/config/target/iscsi || exit 1
ip link set lo up
path=0
while [ "$path" -lt "$braid_paths" ]; do
    ip addr add "10.$path.0.2/24" dev "vec$path" && ip link set "vec$path" up || exit 1
    path=$((path + 1))
done
# To an initiator in a guest of its own.
ip route add 10.200.0.0/24 via 10.0.0.1
echo ready
while read -r number; do
    sh -eu "$braid_dir/$number.sh" </dev/null >"$braid_dir/$number.out"
    echo "done $number $?"
done
