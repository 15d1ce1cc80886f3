# What is done for files.rs, after it has set iqn, portal, lun and files, a directory of the host's.
log_in() {
    iscsiadm -m node -T $iqn -p $portal -l >/dev/null
    set -- /sys/class/iscsi_session/session*
    while ! unit=$(ls -d $1/device/target*/*:$lun/block/sd* 2>/dev/null); do sleep 0.1; done
    unit=/dev/${unit##*/}
}
log_out() {
    iscsiadm -m node -T $iqn -p $portal -u >/dev/null
}
# Reads from the disk, not from memory.
same() {
    echo 3 >/proc/sys/vm/drop_caches
    diff -r $files disk/$1
}
begin() {
    iscsiadm -m discovery -t sendtargets -p $portal >/dev/null
    mkdir disk
    log_in
    mkfs.ext4 -q $unit
    mount -t ext4 $unit disk
    cp -r $files disk/first
    sync
    work </dev/null >work.out 2>&1 &
    echo $! >worker
}
# Until it is told to stop; every file is written, read again and compared.
work() {
    while ! [ -e stop ]; do
        rm -rf disk/again
        cp -r $files disk/again
        sync
        same again
    done
    fio --name=load --directory=disk --size=4m --bs=16k --rw=randwrite --fsync=8 --verify=crc32c --thread=1 \
        --ioengine=libaio --iodepth=8 --direct=1 >fio.out || { cat fio.out; return 1; }
    echo "the work went well"
}
end() {
    touch stop
    read -r worker <worker
    while [ -d /proc/$worker ]; do sleep 0.2; done
    cat work.out
    umount disk
    log_out
    log_in
    e2fsck -fn $unit >/dev/null 2>&1 || echo "the file system is damaged"
    mount -t ext4 $unit disk
    same first
    same again
    umount disk
    log_out
    echo end
}
