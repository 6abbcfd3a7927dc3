// A stand-in for the qsort() that ggml-quants.c calls.
//
// The first use of IQ1, IQ2 or IQ3 sorts up to 2048 (distance, index) pairs 131 072 times to build a table;
// with qsort that takes 15 s of one core. The distances are small integers and the indices arrive in order,
// so that a stable counting sort gives the same sequence in a tenth of the time. Anything that does not look
// like that (the (float, index) pairs of the IQ1 encoder among them) goes to qsort as before.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { max_distance = 1024, min_pairs = 256, max_pairs = 2048 };

typedef struct {
    int32_t distance;
    int32_t index;
} pair;

static int counts_in_order(const pair * pairs, size_t n, uint16_t * counts) {
    for (size_t i = 0; i < n; ++i) {
        if (pairs[i].distance < 0 || pairs[i].distance >= max_distance || pairs[i].index != (int32_t) i) {
            return 0;
        }
        ++counts[pairs[i].distance];
    }
    return 1;
}

void mqn_grid_sort(void * base, size_t n, size_t size, int (*compare)(const void *, const void *));

void mqn_grid_sort(void * base, size_t n, size_t size, int (*compare)(const void *, const void *)) {
    uint16_t counts[max_distance] = { 0 };
    pair * pairs = (pair *) base;
    if (size != sizeof(pair) || n < min_pairs || n > max_pairs || !counts_in_order(pairs, n, counts)) {
        qsort(base, n, size, compare);
        return;
    }
    uint16_t next = 0;
    for (int d = 0; d < max_distance; ++d) {
        const uint16_t count = counts[d];
        counts[d] = next;
        next = (uint16_t) (next + count);
    }
    pair sorted[max_pairs];
    for (size_t i = 0; i < n; ++i) {
        sorted[counts[pairs[i].distance]++] = pairs[i];
    }
    memcpy(pairs, sorted, n * sizeof(pair));
}
