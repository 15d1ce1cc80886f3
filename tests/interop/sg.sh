# sg3-utils on A, the initiator under test, and on B, which goes straight to the target.
# That reservations were released is not compared: Braid's sessions are registered too, and targets tell more of them: tgt each
# session once for each registration, LIO all sessions of a name as one.
t() {
    for n in 1 2 3 4 5 6 7 8; do
        status=0
        said=$("$@" 2>&1) || status=$?
        case $said in *"Reservations released"*) ;; *) break ;; esac
    done
    printf '$ %s\n%s\n= %s\n' "$*" "$said" $status
}
quiet() { "$@" >/dev/null 2>&1 || true; }
# Takes the unit attentions that wait, so that a step begins without.
settle() { for disk in A B; do for n in 1 2 3 4 5; do ! sg_turs $disk >/dev/null 2>&1 || break; done; done; }
both() { for disk in A B; do t sg_turs -v $disk; done; }
ask() { for how in --read-keys --read-reservation --read-full-status; do t sg_persist -n --in $how $1; done; }
out() { t sg_persist -n --out "$@"; }
# inquiry
t sg_inq A
for page in 0 0x80 0x83 0x86 0xb0 0xb1 0xb2 0xc0; do t sg_vpd --page=$page A; done
t sg_luns -v A
t sg_luns --select=1 A
t sg_luns --select=2 A
t sg_readcap A
t sg_readcap --16 A
t sg_modes --all A
t sg_modes --page=0x0a --control=1 A
t sg_modes --page=8 --six A
t sg_opcodes A
t sg_rtpg A
t sg_rtpg --extended A
t sg_stpg --active A
t sg_requests A
t sg_logs A
t sg_ident A
t sg_rdac A
# medium
t sg_turs -n 5 A
t sg_sync A
t sg_sync --immed A
t sg_sync --lba=8 --count=16 A
t sg_sync --16 A
printf 'braid' >block; truncate -s 512 block
t sg_write_same --lba=100 --num=50 --in=block A
t sg_write_same --16 --lba=200 --num=50 --in=block A
t sg_write_same --16 --unmap --lba=110 --num=8 A
t sg_write_same --10 --lba=9999999 --num=1 --in=block A
t sg_verify --lba=100 --count=10 A
t sg_verify --lba=100 --count=1 --ndo=512 --in=block A
t sg_verify --lba=98 --count=1 --ndo=512 --in=block A
t sg_verify --16 --lba=131070 --count=10 A
t sg_unmap --force --lba=104 --num=4 A
# (Not beyond the end: tgt calls that now a bad field, now out of range, whoever asks.)
t sg_get_lba_status --lba=96 A
cat block block >swap
t sg_compare_and_write --in=swap --lba=100 --num=1 --xferlen=1024 A
t sg_compare_and_write --in=swap --lba=98 --num=1 --xferlen=1024 A
t sg_dd if=A bs=512 skip=96 count=32 of=out blk_sgio=1
quiet sg_dd if=A bs=512 skip=96 count=64 of=out
t cksum out
t sg_start --start A
t sg_prevent --allow A
t sg_write_buffer --mode=data A
t sg_read_buffer --mode=desc A
t sg_read_block_limits A
t sg_raw A 16 00 00 00 00 00
t sg_raw A 17 00 00 00 00 00
t sg_raw A ff 00 00 00 00 00

# reserve
settle
t sg_raw B 16 00 00 00 00 00
t sg_turs -v A
t sg_inq --len=36 A
t sg_dd if=A bs=512 count=1 of=/dev/null
t sg_raw A 17 00 00 00 00 00
t sg_turs -v A
t sg_raw B 17 00 00 00 00 00
t sg_turs -v A
t sg_raw A 16 00 00 00 00 00
both
t sg_reset --device B
both; both
quiet sg_raw A 17 00 00 00 00 00
quiet sg_raw B 17 00 00 00 00 00
settle

# persistent reservations
out --register --param-sark=0xa1 A
ask A
out --register --param-sark=0xa2 A
out --register --param-rk=0xa1 --param-sark=0xa2 A
out --register-ignore --param-sark=0xa1 A
out --register --param-sark=0xb1 B
settle
for type in 1 3 5 6 7 8; do
    for one in A B; do
        out --reserve --param-rk=0x$(case $one in A) echo a1;; B) echo b1;; esac) --prout-type=$type $one
        t sg_persist -n --in --read-reservation A
        for disk in A B; do
            t sg_turs -v $disk
            t sg_dd if=$disk bs=512 count=1 of=/dev/null
            t sg_dd if=block bs=512 of=$disk seek=77
        done
        out --release --param-rk=0xa1 --prout-type=$type A
        settle
        out --release --param-rk=0xb1 --prout-type=$type B
        settle
        both
    done
done
# unregister, with others' reservation
out --reserve --param-rk=0xb1 --prout-type=5 B
out --register --param-rk=0xa1 --param-sark=0 A
t sg_dd if=block bs=512 of=A seek=77
t sg_dd if=A bs=512 count=1 of=/dev/null
out --register --param-sark=0xa1 A
t sg_dd if=block bs=512 of=A seek=77
for how in preempt preempt-abort; do
    out --$how --param-rk=0xa1 --param-sark=0xb1 --prout-type=5 A
    ask A
    both; both
    t sg_dd if=block bs=512 of=B seek=77
    out --register --param-sark=0xb1 B
    out --$how --param-rk=0xb1 --param-sark=0xa1 --prout-type=5 B
    ask A
    both; both
    t sg_dd if=block bs=512 of=A seek=77
    out --register --param-sark=0xa1 A
done
# clear
out --clear --param-rk=0xb1 B
ask A
both; both
out --register --param-sark=0xa1 A
out --register --param-sark=0xb1 B
out --clear --param-rk=0xa1 A
settle
ask B
both
# aptpl and others
out --register --param-sark=0xa1 --param-aptpl A
out --register --param-rk=0xa1 --param-sark=0xa3 --param-aptpl A
out --register --param-sark=0xa4 --param-alltgpt A
out --register --param-rk=0xa3 --param-sark=0xa4 --param-alltgpt A
out --register-move --param-rk=0xa3 --param-sark=0xb3 --relative-target-port=1 --transport-id=iqn.2026-11.net.braid:initiator-B A
ask A
out --replace-lost --param-sark=0xa5 A
out --register-ignore --param-sark=0xa1 A
t sg_raw A 16 00 00 00 00 00
t sg_reset --device A
both; both
ask A
out --clear --param-rk=0xa1 A
settle

# resets
for how in device target; do
    t sg_reset --$how A
    both; both
    t sg_reset --$how B
    both; both
done
