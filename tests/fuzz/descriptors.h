/*
 * How many descriptors this process has open: to be the same before and after each input.
 */
#ifndef KAISO_FUZZ_DESCRIPTORS_H
#define KAISO_FUZZ_DESCRIPTORS_H

#include <dirent.h>
#include <stddef.h>
#include <stdlib.h>

static inline size_t count_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	size_t count = 0;

	if (!directory)
		abort();
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

#endif
