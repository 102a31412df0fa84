// Sums of matrix products in float32 on all threads.
#pragma once

#include <cstdint>

// alpha * A B. A is [m, k] (or [k, m] if transpose_a), B is [k, n] (or [n, k] if transpose_b), rows lie a_stride and
// b_stride numbers apart.
struct Term {
  const float *a, *b;
  int64_t a_stride, b_stride, k;
  bool transpose_a, transpose_b;
  float alpha;
};

// c [m, n] = [start +] the terms. c and start have rows c_stride numbers apart; start may be null, or c itself.
void AddProducts(const Term* terms, int num_terms, int64_t m, int64_t n, float* c, int64_t c_stride, const float* start);
