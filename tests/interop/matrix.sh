# What is done for matrix.rs, after it has set iqn, portal, lun and size, the bytes that each combination writes.
session=node.session.iscsi
connection='node.conn[0].iscsi'
next=0

# What the kernel goes by, in the order of the arguments of try.
in_force() {
    for name in $2/header_digest $2/data_digest $1/initial_r2t $1/immediate_data \
        $1/first_burst_len $1/max_burst_len $2/max_recv_dlength $2/max_xmit_dlength; do
        read -r value <$name
        printf ' %s' $value
    done
}

# HeaderDigest DataDigest InitialR2T ImmediateData FirstBurstLength MaxBurstLength MaxRecvDataSegmentLength
try() {
    printf '%s:' "$*"
    iscsiadm -m node -T $iqn -p $portal -o update \
        -n "$connection.HeaderDigest" -v $1 -n "$connection.DataDigest" -v $2 \
        -n $session.InitialR2T -v $3 -n $session.ImmediateData -v $4 \
        -n $session.FirstBurstLength -v $5 -n $session.MaxBurstLength -v $6 \
        -n "$connection.MaxRecvDataSegmentLength" -v $7
    iscsiadm -m node -T $iqn -p $portal -l >/dev/null
    set -- /sys/class/iscsi_session/session* /sys/class/iscsi_connection/connection*
    in_force $1 $2
    while ! unit=$(ls -d $1/device/target*/*:$lun/block/sd* 2>/dev/null); do sleep 0.1; done
    # A command as long as it can be.
    read -r longest <$unit/queue/max_hw_sectors_kb
    echo $longest >$unit/queue/max_sectors_kb
    disk=/dev/${unit##*/}
    dd if=there of=$disk bs=$size seek=$next oflag=direct 2>/dev/null
    dd if=$disk bs=$size skip=$next count=1 iflag=direct 2>/dev/null | cmp - there >&2 && echo ' same'
    next=$((next + 1))
    iscsiadm -m node -T $iqn -p $portal -u >/dev/null
}

iscsiadm -m node -u >/dev/null 2>&1 || true
iscsiadm -m node -o delete >/dev/null 2>&1 || true
iscsiadm -m node -T $iqn -p $portal,1 -o new >/dev/null
iscsiadm -m node -T $iqn -p $portal -o update -n node.session.initial_login_retry_max -v 1
dd if=/dev/urandom of=there bs=$size count=1 2>/dev/null
