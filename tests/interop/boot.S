# The boot sector of boot.rs: reads the sectors behind it with the firmware's own calls, writes them behind those, says on the
# first serial port what stands in the last of them, and switches the machine off.
    .code16
    .globl _start
    .set SECTORS, 63
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    sti
    movb %dl, drive
    movb $0x42, %ah
    call disk
    movl $(1 + SECTORS), address
    movb $0x43, %ah
    call disk
    # The last sector.
    movw $(0x8000 + (SECTORS - 1) * 512), %si
    call say
    movb $1, %al
    jmp off

# Says the text at SI on the serial port.
say:
    lodsb
    testb %al, %al
    jz 2f
    movb %al, %ah
    movw $0x3fd, %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movw $0x3f8, %dx
    movb %ah, %al
    outb %al, %dx
    jmp say
2:  ret

# Does what AH says with the request.
disk:
    xorb %al, %al
    movb drive, %dl
    movw $request, %si
    int $0x13
    jc 3f
    ret
3:  movw $failed, %si
    call say
    movb $2, %al

# Ends QEMU, with what is in AL.
off:
    movw $0xf4, %dx
    outb %al, %dx
4:  hlt
    jmp 4b

failed: .asciz "the disk failed\r\n"
drive:  .byte 0
    .balign 4
request:
    .byte 16, 0
    .word SECTORS
    .word 0x8000, 0
address:
    .long 1, 0
    .org 510
    .word 0xaa55
