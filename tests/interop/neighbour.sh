# A carries load while B, which goes straight to the target, does what a neighbour may do. Facts are printed; a line that
# begins with `#` is a figure, for whoever reads about a failure.

id() { basename "$(readlink -f "/sys/block/$(basename "$(readlink $1.disk)")/device")"; }
disk=$(id A)
quiet() { "$@" >/dev/null 2>&1 || true; }
# Does something until it goes well: tgt tells of each reset by itself.
must() { for n in $(seq 100); do ! "$@" >/dev/null 2>&1 || break; done; }
settle() { for one in A B; do must sg_turs $one; done; }
fact() { if [ "$2" -ge "$3" ] && [ "$2" -le "$4" ]; then echo "$1"; else echo "not: $1"; fi; echo "# $1: $2"; }
log() { dmesg | grep -c "$1" || true; }
trouble='I/O error\|critical\|timing out'
# Writes all over the disk and compares what it reads, for so many seconds.
load() {
    fio --name=load --filename=A.disk --direct=1 --thread=1 --ioengine=libaio --iodepth=16 --bs=16k --size=16m \
        --rw=randwrite --verify=crc32c --verify_backlog=16 --verify_fatal=1 --verify_dump=0 \
        --time_based --runtime=$1 >fio.out 2>&1
}
# Does something again and again while a load runs, and says how that ended.
during() {
    seconds=$1
    shift
    dmesg -C
    load $seconds &
    times=0 tries=0
    while kill -0 $! 2>/dev/null; do
        tries=$((tries + 1))
        if "$@"; then times=$((times + 1)); fi
        sleep 0.1
    done
    if wait $!; then echo "the load went well"; else echo "the load failed"; sed 's/^/# /' fio.out; fi
    fact "done often" $times $seconds 1000
    # (One that failed may have been done.)
    fact "A was told of each once at most" "$(log "$disk: Power-on or device reset occurred")" 1 $tries
    fact "no trouble" "$(log "$trouble")" 0 0
    dmesg | grep "$trouble" | sed 's/^/# /' || true
    settle
}

echo "B resets the unit"
during 4 sg_reset --device B
fact "connections stood" "$(log 'conn error')" 0 0
echo "A resets the unit"
during 3 sg_reset --device A
fact "connections stood" "$(log 'conn error')" 0 0

echo "B reserves the unit"
load 20 &
sleep 0.5
must sg_raw B 16 00 00 00 00 00
if wait $!; then echo "the load went on"; else echo "the load was stopped"; fi
conflicts() {
    count=0
    for n in 1 2 3; do
        for command in "sg_turs A" "sg_dd if=A bs=512 count=8 of=/dev/null" "sg_dd if=block of=A bs=512 seek=$n"; do
            $command >said 2>&1 || true
            if grep -qi 'reservation conflict\|Some error' said; then count=$((count + 1)); fi
        done
    done
    echo $count
}
quiet dd if=/dev/urandom of=block bs=512 count=1
# LIO lets TEST UNIT READY pass.
conflicts=$(conflicts)
fact "A meets conflicts" $conflicts 6 9
echo $conflicts
fact "A may ask who it is" "$(sg_inq A | grep -c Vendor)" 1 1
must sg_raw B 17 00 00 00 00 00
fact "A meets none" "$(conflicts)" 0 0
if load 1; then echo "the load goes well"; fi

if [ "$preempts" = no ]; then exit; fi

# B ends A's registration while A writes. When that is answered nothing more of A reaches the disk.
preempt() {
    settle
    for one in A B; do quiet sg_persist --out --register-ignore --param-sark=0x$one $one; done
    quiet sg_persist --out --reserve --param-rk=0xA --prout-type=5 A
    settle
    fio --name=load --filename=A.disk --direct=1 --thread=1 --ioengine=libaio --iodepth=32 --bs=4k --size=1m \
        --rw=randwrite --norandommap=1 --refill_buffers=1 --time_based --runtime=20 >fio.out 2>&1 &
    sleep 0.5
    if sg_persist --out --$1 --param-rk=0xB --param-sark=0xA --prout-type=5 B >/dev/null 2>&1; then
        quiet sg_dd if=B of=first bs=512 bpt=2048 count=2048
        if wait $!; then echo "the load went on"; else echo "the load was stopped"; fi
        quiet sg_dd if=B of=second bs=512 bpt=2048 count=2048
        if cmp first second; then echo "nothing came after it"; fi
        settle
        sg_dd if=block of=A bs=512 seek=1 >said 2>&1 || true
        fact "A must not write" "$(grep -ci 'reservation conflict' said)" 1 1
        fact "A may read" "$(sg_dd if=A bs=512 count=8 of=/dev/null 2>&1 | grep -c '^8+0 records out')" 1 1
        for what in keys reservation; do
            sg_persist -n --in --read-$what A | sed 's/generation=0x[0-9a-f]*//'
        done
    else
        echo "not on this target"
        kill $!
        wait $! || true
    fi
    quiet sg_persist --out --clear --param-rk=0xB B
    settle
    if sg_dd if=block of=A bs=512 seek=1 >/dev/null 2>&1; then echo "A writes again"; fi
}
for how in preempt preempt-abort preempt; do
    echo "B preempts A: $how"
    preempt $how
done
