#!/bin/sh
# The first process of the guest: loads the kernel's initiator and disks, brings up its one interface, starts iscsid, then
# runs the scripts that it is told. $braid_dir (from the kernel's command line) is a directory of the host that both sides see.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
stty -echo
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Over directories of the host that iscsid writes to; seen by the guest alone.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/iscsi
mkdir -p /run/lock
cd "/usr/lib/uml/modules/$(uname -r)/kernel" || exit 1
load() { for module; do insmod "$module.ko" || exit 1; done; }
load drivers/scsi/scsi_common drivers/scsi/scsi_mod drivers/scsi/scsi_transport_iscsi
load drivers/scsi/libiscsi drivers/scsi/libiscsi_tcp drivers/scsi/iscsi_tcp
load lib/crc64 lib/crc64-rocksoft block/t10-pi drivers/scsi/sd_mod drivers/scsi/sg
ip link set lo up
ip addr add 10.200.0.2/24 dev vec0 && ip link set vec0 up && ip route add default via 10.200.0.1 || exit 1
echo InitiatorName=iqn.2026-11.net.braid:guest >/etc/iscsi/initiatorname.iscsi
echo node.startup = manual >/etc/iscsi/iscsid.conf
iscsid -f >"$braid_dir/iscsid.log" 2>&1 &
cd /run || exit 1
echo ready
while read -r number; do
    sh -eu "$braid_dir/$number.sh" </dev/null >"$braid_dir/$number.out"
    echo "done $number $?"
done
