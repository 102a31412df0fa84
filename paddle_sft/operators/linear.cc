// Linear layers that share an input, each with an update of low rank or without: y = x W [+ bias] +
// scaling (x A) B, and the gradients. Nothing of the size of y is there twice, and the gradient of x is one sum.

#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "product.h"

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

namespace {

constexpr int64_t kNarrow = 32;  // columns up to which a product is done here, as MKL's reaches a tenth of its speed
constexpr int64_t kTogether = 8;
constexpr int64_t kSmall = 32768;  // numbers up to which waking another thread takes longer than it saves

using Vector = float __attribute__((vector_size(64), aligned(4), may_alias));  // 16 numbers anywhere in memory
constexpr int64_t kVector = 16;

inline Vector At(const float* p) { return *reinterpret_cast<const Vector*>(p); }

// out [kRows, kTogether] = alpha x [kRows, n] b^T, b [kTogether, n]; rows of x are n apart, of out `rank`.
template <int kRows>
void Dots(const float* x, const float* b, float* out, int64_t n, int64_t rank, float alpha) {
  Vector sums[kRows][kTogether] = {};
  int64_t i = 0;
  for (; i + kVector <= n; i += kVector)
    for (int j = 0; j < kTogether; ++j) {
      const Vector by = At(b + j * n + i);
      for (int row = 0; row < kRows; ++row) sums[row][j] += by * At(x + row * n + i);
    }
  for (int row = 0; row < kRows; ++row)
    for (int j = 0; j < kTogether; ++j) {
      float sum = 0.0f;
      for (int64_t k = i; k < n; ++k) sum += x[row * n + k] * b[j * n + k];
      for (int k = 0; k < kVector; ++k) sum += sums[row][j][k];
      out[row * rank + j] = alpha * sum;
    }
}

// out [rows, rank] = alpha x [rows, n] b^T, b [rank, n].
void NarrowProduct(const float* x, const float* b, float* out, int64_t rows, int64_t n, int64_t rank, float alpha) {
  constexpr int64_t kTall = 3;
  int64_t j = 0;
  for (; j + kTogether <= rank; j += kTogether) {
    int64_t row = 0;
    for (; row + kTall <= rows; row += kTall) Dots<kTall>(x + row * n, b + j * n, out + row * rank + j, n, rank, alpha);
    for (; row < rows; ++row) Dots<1>(x + row * n, b + j * n, out + row * rank + j, n, rank, alpha);
  }
  for (; j < rank; ++j)
    for (int64_t row = 0; row < rows; ++row) {
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < n; ++i) sum += x[row * n + i] * b[j * n + i];
      out[row * rank + j] = alpha * sum;
    }
}

// out [kTogether, 2 vectors] += h^T g of `rows` rows; those of h are `rank` apart, of g and out n.
void AddOuter(const float* h, const float* g, float* out, int64_t rows, int64_t rank, int64_t n) {
  Vector sums[kTogether][2];
  for (int j = 0; j < kTogether; ++j)
    for (int v = 0; v < 2; ++v) sums[j][v] = At(out + j * n + v * kVector);
  for (int64_t row = 0; row < rows; ++row) {
    const Vector g0 = At(g + row * n), g1 = At(g + row * n + kVector);
    for (int j = 0; j < kTogether; ++j) {
      sums[j][0] += h[row * rank + j] * g0;
      sums[j][1] += h[row * rank + j] * g1;
    }
  }
  for (int j = 0; j < kTogether; ++j)
    for (int v = 0; v < 2; ++v) *reinterpret_cast<Vector*>(out + j * n + v * kVector) = sums[j][v];
}

// out [rank, n] += h^T g, h [rows, rank], g [rows, n].
void AddNarrowSums(const float* h, const float* g, float* out, int64_t rows, int64_t n, int64_t rank) {
  for (int64_t j = 0; j < rank; j += kTogether) {
    const int64_t together = std::min(kTogether, rank - j);
    int64_t column = 0;
    for (; together == kTogether && column + 2 * kVector <= n; column += 2 * kVector)
      AddOuter(h + j, g + column, out + j * n + column, rows, rank, n);
    for (int64_t k = j; k < j + together; ++k)
      for (int64_t row = 0; row < rows; ++row)
#pragma omp simd
        for (int64_t i = column; i < n; ++i) out[k * n + i] += h[row * rank + k] * g[row * n + i];
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

constexpr int64_t kBlock = 32;  // rows that are read once for all that is narrow

bool IsNarrow(const Linear& layer) { return layer.a && layer.rank <= kNarrow; }

// x A of the narrow layers, in one pass over x.
void NarrowInner(const float* x, int64_t rows, int64_t in, const Linear* layers, int64_t count) {
  std::vector<std::vector<float>> turned(count);
  for (int64_t i = 0; i < count; ++i)
    if (IsNarrow(layers[i])) turned[i] = Transposed(layers[i].a, in, layers[i].rank);
#pragma omp parallel for schedule(static) if (rows * in > kSmall)
  for (int64_t first = 0; first < rows; first += kBlock)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t rank = layers[i].rank, height = std::min(kBlock, rows - first);
      if (IsNarrow(layers[i]))
        NarrowProduct(x + first * in, turned[i].data(), layers[i].inner + first * rank, height, in, rank, 1.0f);
    }
}

// The same of the gradients, in one pass over them and x: inner = scaling g B^T [rows, rank], for_b = scaling (x A)^T g,
// for_a = x^T inner. Each thread adds up its own rows.
void NarrowGradients(const float* x, int64_t rows, int64_t in, const Linear* layers, int64_t count, float* const* inner) {
  int64_t size = 0, numbers = 0;
  for (int64_t i = 0; i < count; ++i)
    if (IsNarrow(layers[i])) size += layers[i].rank * (layers[i].out + in), numbers += rows * layers[i].out;
  if (!size) return;
  std::vector<float> all(size * omp_get_max_threads(), 0.0f);
  int64_t threads = 1;
#pragma omp parallel if (numbers > kSmall)
  {
#pragma omp single nowait
    threads = omp_get_num_threads();
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += kBlock) {
      const int64_t height = std::min(kBlock, rows - first);
      float* sums = all.data() + size * omp_get_thread_num();
      for (int64_t i = 0; i < count; ++i) {
        const Linear& l = layers[i];
        if (!IsNarrow(l)) continue;
        const float* g = l.gradient + first * l.out;
        float* back = inner[i] + first * l.rank;
        NarrowProduct(g, l.b, back, height, l.out, l.rank, l.scaling);
        if (l.for_b) AddNarrowSums(l.inner + first * l.rank, g, sums, height, l.out, l.rank);
        if (l.for_a) AddNarrowSums(back, x + first * in, sums + l.rank * l.out, height, in, l.rank);
        sums += l.rank * (l.out + in);
      }
    }
  }
  for (int64_t t = 1; t < threads; ++t)
    for (int64_t i = 0; i < size; ++i) all[i] += all[t * size + i];
  const float* sums = all.data();
  for (int64_t i = 0; i < count; ++i) {
    const Linear& l = layers[i];
    if (!IsNarrow(l)) continue;
    if (l.for_b)
      for (int64_t k = 0; k < l.rank * l.out; ++k) l.for_b[k] = l.scaling * sums[k];
    if (l.for_a)
      for (int64_t j = 0; j < l.rank; ++j)
        for (int64_t k = 0; k < in; ++k) l.for_a[k * l.rank + j] = sums[l.rank * l.out + j * in + k];
    sums += l.rank * (l.out + in);
  }
}

}  // namespace

extern "C" {

void linears(const float* x, int64_t rows, int64_t in, const Linear* layers, int64_t count) {
  NarrowInner(x, rows, in, layers, count);
  for (int64_t i = 0; i < count; ++i) {
    const Linear& layer = layers[i];
    Term terms[2] = {{x, layer.weight, in, layer.out, in, false, false, 1.0f}};
    int num = 1;
    if (layer.a) {
      if (!IsNarrow(layer)) {
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
  std::vector<float*> inners(count, nullptr);
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
    float* inner = inners[i] = kept.back().data();
    kept.push_back(Transposed(layer.a, in, layer.rank));
    terms.push_back({inner, kept.back().data(), layer.rank, in, layer.rank, false, false, 1.0f});
    if (IsNarrow(layer)) continue;
    const Term back = {g, layer.b, layer.out, layer.out, layer.out, false, true, layer.scaling};
    AddProducts(&back, 1, rows, layer.rank, inner, layer.rank, nullptr);
    const Term by_b = {layer.inner, g, layer.rank, layer.out, rows, true, false, layer.scaling};
    if (layer.for_b) AddProducts(&by_b, 1, layer.rank, layer.out, layer.for_b, layer.out, nullptr);
    const Term by_a = {x, inner, in, layer.rank, rows, true, false, 1.0f};
    if (layer.for_a) AddProducts(&by_a, 1, in, layer.rank, layer.for_a, layer.rank, nullptr);
  }
  NarrowGradients(x, rows, in, layers, count, inners.data());
  if (for_x) AddProducts(terms.data(), static_cast<int>(terms.size()), rows, in, for_x, in, nullptr);
}

}  // extern "C"
