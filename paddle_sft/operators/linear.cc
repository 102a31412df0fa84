// Linear layers that share an input, each with an update of low rank or without: y = x W [+ bias] +
// scaling (x A) B, and the gradients. Nothing of the size of y is there twice, and the gradient of x is one sum.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "product.h"

namespace {

constexpr int64_t kNarrow = 32;  // columns up to which a product is done here, as MKL's reaches a tenth of its speed
constexpr int64_t kTogether = 8;
constexpr int64_t kSmall = 32768;  // numbers up to which waking another thread takes longer than it saves

// out [rows, rank] = alpha x [rows, n] b^T, b [rank, n].
void NarrowProduct(const float* x, const float* b, float* out, int64_t rows, int64_t n, int64_t rank, float alpha) {
#pragma omp parallel for schedule(static) if (rows * n > kSmall)
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t first = 0; first < rank; first += kTogether) {
      const float *in = x + row * n, *to = b + first * n;
      const int64_t width = std::min(kTogether, rank - first);
      float* sums = out + row * rank + first;
      if (width == kTogether) {
        float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
        for (int64_t i = 0; i < n; ++i) {
          const float v = in[i];
          s0 += v * to[i];
          s1 += v * to[n + i];
          s2 += v * to[2 * n + i];
          s3 += v * to[3 * n + i];
          s4 += v * to[4 * n + i];
          s5 += v * to[5 * n + i];
          s6 += v * to[6 * n + i];
          s7 += v * to[7 * n + i];
        }
        const float all[kTogether] = {s0, s1, s2, s3, s4, s5, s6, s7};
        for (int64_t j = 0; j < kTogether; ++j) sums[j] = alpha * all[j];
      } else {
        for (int64_t j = 0; j < width; ++j) {
          float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
          for (int64_t i = 0; i < n; ++i) sum += in[i] * to[j * n + i];
          sums[j] = alpha * sum;
        }
      }
    }
}

// out [rank, n] = alpha h^T g, h [rows, rank], g [rows, n]; out [n, rank] if `across`. Each thread adds up its own rows.
void NarrowSums(const float* h, const float* g, float* out, int64_t rows, int64_t n, int64_t rank, float alpha,
                bool across) {
  constexpr int64_t kRows = 8, kWide = 64;
  const int64_t size = rank * n;
  std::vector<float> all(size * omp_get_max_threads(), 0.0f);
  int64_t threads = 1;
#pragma omp parallel if (rows * n > kSmall)
  {
    float* own = all.data() + size * omp_get_thread_num();
#pragma omp single nowait
    threads = omp_get_num_threads();
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += kRows) {
      const int64_t height = std::min(kRows, rows - first);
      for (int64_t column = 0; column < n; column += kWide) {
        const int64_t width = std::min(kWide, n - column);
        for (int64_t j = 0; j < rank; ++j) {
          float* to = own + j * n + column;
          const float *from = g + first * n + column, *by = h + first * rank + j;
          if (width == kWide && height == kRows) {
            float sums[kWide];
            std::copy_n(to, kWide, sums);
#pragma GCC unroll 8
            for (int64_t row = 0; row < kRows; ++row)
#pragma omp simd
              for (int64_t i = 0; i < kWide; ++i) sums[i] += by[row * rank] * from[row * n + i];
            std::copy_n(sums, kWide, to);
          } else {
            for (int64_t row = 0; row < height; ++row)
              for (int64_t i = 0; i < width; ++i) to[i] += by[row * rank] * from[row * n + i];
          }
        }
      }
    }
  }
  for (int64_t j = 0; j < rank; ++j)
    for (int64_t i = 0; i < n; ++i) {
      float sum = all[j * n + i];
      for (int64_t t = 1; t < threads; ++t) sum += all[t * size + j * n + i];
      out[across ? i * rank + j : j * n + i] = alpha * sum;
    }
}

// [rows, columns] -> [columns, rows]
std::vector<float> Transposed(const float* from, int64_t rows, int64_t columns) {
  std::vector<float> to(rows * columns);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < columns; ++column) to[column * rows + row] = from[row * columns + column];
  return to;
}

void AddBias(const float* bias, float* y, int64_t rows, int64_t n) {
#pragma omp parallel for schedule(static) if (rows * n > kSmall)
  for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[row * n + i] += bias[i];
}

void SumRows(const float* g, float* out, int64_t rows, int64_t n) {
  std::vector<double> total(n, 0.0);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < n; ++i) total[i] += g[row * n + i];
  std::copy(total.begin(), total.end(), out);
}

}  // namespace

extern "C" {

// Weight [in, out], bias [out] or null, A [in, rank] and B [rank, out] or null, y [rows, out], inner = x A [rows, rank].
// Those that begin with for_ are gradients, null where none is wanted.
struct Linear {
  const float *weight, *bias, *a, *b;
  float *y, *inner;
  const float* gradient;
  float *for_weight, *for_bias, *for_a, *for_b;
  int64_t out, rank;
  float scaling;
};

void linears(const float* x, int64_t rows, int64_t in, const Linear* layers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const Linear& layer = layers[i];
    Term terms[2] = {{x, layer.weight, in, layer.out, in, false, false, 1.0f}};
    int num = 1;
    if (layer.a) {
      if (layer.rank <= kNarrow) {
        NarrowProduct(x, Transposed(layer.a, in, layer.rank).data(), layer.inner, rows, in, layer.rank, 1.0f);
      } else {
        const Term inner = {x, layer.a, in, layer.rank, in, false, false, 1.0f};
        AddProducts(&inner, 1, rows, layer.rank, layer.inner, layer.rank, nullptr);
      }
      terms[num++] = {layer.inner, layer.b, layer.rank, layer.out, layer.rank, false, false, layer.scaling};
    }
    AddProducts(terms, num, rows, layer.out, layer.y, layer.out, nullptr);
    if (layer.bias) AddBias(layer.bias, layer.y, rows, layer.out);
  }
}

// for_x [rows, in] or null.
void linears_grad(const float* x, int64_t rows, int64_t in, const Linear* layers, int64_t count, float* for_x) {
  std::vector<Term> terms;
  std::vector<std::vector<float>> kept;  // scaling * g B^T [rows, rank] of each layer, and A^T
  kept.reserve(2 * count);
  for (int64_t i = 0; i < count; ++i) {
    const Linear& layer = layers[i];
    const float* g = layer.gradient;
    terms.push_back({g, layer.weight, layer.out, layer.out, layer.out, false, true, 1.0f});
    if (layer.for_weight) {
      const Term term = {x, g, in, layer.out, rows, true, false, 1.0f};
      AddProducts(&term, 1, in, layer.out, layer.for_weight, layer.out, nullptr);
    }
    if (layer.for_bias) SumRows(g, layer.for_bias, rows, layer.out);
    if (!layer.a) continue;
    kept.emplace_back(rows * layer.rank);
    float* inner = kept.back().data();
    kept.push_back(Transposed(layer.a, in, layer.rank));
    terms.push_back({inner, kept.back().data(), layer.rank, in, layer.rank, false, false, 1.0f});
    if (layer.rank <= kNarrow) {
      NarrowProduct(g, layer.b, inner, rows, layer.out, layer.rank, layer.scaling);
      if (layer.for_b) NarrowSums(layer.inner, g, layer.for_b, rows, layer.out, layer.rank, layer.scaling, false);
      if (layer.for_a) NarrowSums(inner, x, layer.for_a, rows, in, layer.rank, 1.0f, true);
      continue;
    }
    const Term back = {g, layer.b, layer.out, layer.out, layer.out, false, true, layer.scaling};
    AddProducts(&back, 1, rows, layer.rank, inner, layer.rank, nullptr);
    const Term by_b = {layer.inner, g, layer.rank, layer.out, rows, true, false, layer.scaling};
    if (layer.for_b) AddProducts(&by_b, 1, layer.rank, layer.out, layer.for_b, layer.out, nullptr);
    const Term by_a = {x, inner, in, layer.rank, rows, true, false, 1.0f};
    if (layer.for_a) AddProducts(&by_a, 1, in, layer.rank, layer.for_a, layer.rank, nullptr);
  }
  if (for_x) AddProducts(terms.data(), static_cast<int>(terms.size()), rows, in, for_x, in, nullptr);
}

}  // extern "C"
