# 32-bit code that connects to 127.0.0.1:1, by connect(2) without arguments, by socketcall(2) with one. The errno is its
# exit status. No library is needed to build it.
.data
target:
	.byte 2, 0, 0, 1, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0
arguments:
	.long 0, target, 16

.text
.globl _start
_start:
	mov (%esp), %esi	# argc
	mov $359, %eax		# socket(AF_INET, SOCK_STREAM, 0)
	mov $2, %ebx
	mov $1, %ecx
	xor %edx, %edx
	int $0x80
	mov %eax, %ebx
	mov %eax, arguments
	cmp $1, %esi
	jne by_socketcall
	mov $362, %eax		# connect
	mov $target, %ecx
	mov $16, %edx
	int $0x80
	jmp leave
by_socketcall:
	mov $102, %eax		# socketcall(SYS_CONNECT, arguments)
	mov $3, %ebx
	mov $arguments, %ecx
	int $0x80
leave:
	mov %eax, %ebx
	neg %ebx
	mov $1, %eax
	int $0x80
