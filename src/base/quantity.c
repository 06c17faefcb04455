#include "base/quantity.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/macros.h"

#define SECONDS_A_MINUTE 60
#define SECONDS_AN_HOUR 3600
#define SECONDS_A_DAY 86400
#define AGE_MAX 86400e9

/* In a unit of which there are less than a thousand. */
static const char *scaled(double number, double step, char text[static QUANTITY_SIZE])
{
	static const char units[] = "\0KMGTPE";
	size_t unit = 0;

	while (number >= 999.5 && unit < sizeof(units) - 2) {
		number /= step;
		unit++;
	}
	if (unit > 0 && number < 9.95)
		snprintf(text, QUANTITY_SIZE, "%.1f%c", number, units[unit]);
	else
		snprintf(text, QUANTITY_SIZE, "%.0f%.1s", number, &units[unit]);
	return text;
}

const char *quantity_bytes(double bytes, char text[static QUANTITY_SIZE])
{
	/* Less than one a second is more than none. */
	return scaled(bytes > 0 && bytes < 1 ? 1 : bytes, 1024, text);
}

const char *quantity_count(uint64_t count, char text[static QUANTITY_SIZE])
{
	return scaled((double)count, 1000, text);
}

const char *quantity_age(double seconds, char text[static QUANTITY_SIZE])
{
	uint64_t whole = seconds > 0 ? (uint64_t)MIN(seconds, AGE_MAX) : 0;
	uint64_t days = whole / SECONDS_A_DAY, hours = whole / SECONDS_AN_HOUR % 24;
	uint64_t minutes = whole / SECONDS_A_MINUTE % 60;

	if (days > 99)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "d", days);
	else if (days > 0)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "d%02" PRIu64 "h", days, hours);
	else if (hours > 0)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "h%02" PRIu64 "m", hours, minutes);
	else if (minutes > 0)
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "m%02" PRIu64 "s", minutes, whole % 60);
	else
		snprintf(text, QUANTITY_SIZE, "%" PRIu64 "s", whole);
	return text;
}
