# Asymmetric access with sg3-utils: A, the initiator under test, and B, which goes straight to the target, are both led over
# port group 1 of two; Braid's further paths are of both. States are set by either.
t() {
    status=0
    said=$("$@" 2>&1) || status=$?
    printf '$ %s\n%s\n= %s\n' "$*" "$said" $status
}
settle() { for disk in A B; do for n in 1 2 3 4 5; do ! sg_turs $disk >/dev/null 2>&1 || break; done; done; }
medium() {
    t sg_turs -v $1
    t sg_dd if=$1 bs=512 count=16 bpt=1 of=/dev/null
    t sg_dd if=block bs=512 of=$1 seek=77
    t sg_sync $1
}
look() {
    t sg_rtpg --decode $1
    t sg_rtpg --extended $1
}
printf 'braid' >block; truncate -s 512 block
t sg_inq A
for page in 0 0x80 0x83; do t sg_vpd --page=$page A; done
look A
settle
for state in standby unavailable active optimized; do
    t sg_stpg --$state --tp=2 A
    medium A
    look A
done
# (Not the other group by B: LIO does not tell of it who is led over this one, but Braid's further paths, and so A.)
for by in A B; do
    for state in active optimized; do
        t sg_stpg --$state --tp=1 $by
        medium A
        medium B
        look A
    done
done
t sg_stpg --state=ao,an --tp=1,2 A
medium A
look B
t sg_stpg --state=an,ao --tp=1,2 A
medium A
look B
t sg_stpg --optimized --tp=1 A
# What is not done.
t sg_stpg --optimized --tp=9 A
t sg_stpg --state=15 --tp=2 A
t sg_stpg --state=4 --tp=2 A
t sg_stpg --state=7 --tp=2 A
t sg_raw -s 8 -i block A a4 0a 00 00 00 00 00 00 00 08 00 00
t sg_raw A a4 0a 00 00 00 00 00 00 00 00 00 00
medium A
look A
# Home's own port in standby, and what such a port serves.
t sg_stpg --standby --tp=1 A
t sg_inq A
t sg_luns A
t sg_vpd --page=0x83 A
t sg_readcap --16 A
t sg_persist -n --in --read-keys A
look A
t sg_stpg --unavailable --tp=1 A
t sg_inq A
t sg_vpd --page=0x83 A
t sg_luns A
look A
t sg_stpg --optimized --tp=1 A
medium A
look A
