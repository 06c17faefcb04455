# The smallest 32-bit program: exits with 42. No library is needed to build it.
.globl _start
_start:
	mov $1, %eax
	mov $42, %ebx
	int $0x80
