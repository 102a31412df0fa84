// The steps of a training pass that are no matrix products, on a CPU: each in one pass over memory, on all threads.
// Plain C functions over float32 arrays, called through ctypes. Shapes are in operators/cpu.py. Sums over a row are taken
// in float, sums over rows in double. NaN goes in and comes out: no fast-math flag that assumes finite numbers is used.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc);

namespace {

constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
constexpr int64_t kSmall = 32768;    // numbers up to which waking another thread takes longer than it saves
constexpr int64_t kQueryBlock = 64;  // queries of one product: their scores stay in the cache

// e^x to 2 units in the last place (Cody and Waite's reduction, a polynomial of degree 6), written so that it vectorises.
inline float Exp(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float n = std::nearbyint(x * 1.44269504f);
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return p * power;
}

inline float Max(const float* row, int64_t n) {
  float most = row[0];
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < n; ++i) most = row[i] > most ? row[i] : most;
  return most;
}

// row -> e^(row - shift); returns the sum.
inline float ExpRow(float* row, int64_t n, float shift) {
  float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) {
    row[i] = Exp(row[i] - shift);
    sum += row[i];
  }
  return sum;
}

// The queries of a segment: all of its tokens, or those at some positions, which ascend.
struct Queries {
  int64_t first, count;
  const int64_t* positions;
  // starts [segments + 1] and positions [starts[segments]] may be null: every token asks.
  Queries(const int64_t* segment_starts, const int64_t* starts, const int64_t* positions, int64_t segment)
      : first((starts ? starts : segment_starts)[segment]),
        count((starts ? starts : segment_starts)[segment + 1] - first),
        positions(starts ? positions + first : nullptr) {}
  int64_t position(int64_t query) const { return positions ? positions[query] : query; }
};

// Some queries, where their keys begin and end, and which a single query may see: the causal triangle, cut by the window.
struct Block {
  const Queries& queries;
  int64_t start, end, first, seen, window;
  Block(const Queries& queries, int64_t start, int64_t window) : queries(queries), start(start), window(window) {
    end = start + kQueryBlock < queries.count ? start + kQueryBlock : queries.count;
    first = window && queries.position(start) - window + 1 > 0 ? queries.position(start) - window + 1 : 0;
    seen = queries.position(end - 1) + 1;
  }
  int64_t rows() const { return end - start; }
  int64_t keys() const { return seen - first; }
  int64_t from(int64_t row) const {
    const int64_t from = window ? queries.position(start + row) - window + 1 : 0;
    return (from > first ? from : first) - first;
  }
  int64_t to(int64_t row) const { return queries.position(start + row) + 1 - first; }
};

}  // namespace

extern "C" {

void rms_norm(const float* x, const float* weight, float* y, float* inverse, int64_t rows, int64_t n, float epsilon) {
#pragma omp parallel for if (rows * n > kSmall)
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x + row * n;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += in[i] * in[i];
    const float scale = 1.0f / std::sqrt(sum / n + epsilon);
    inverse[row] = scale;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[row * n + i] = in[i] * scale * weight[i];
  }
}

// for_weight may be null; it is added up by one thread after another in a fixed order.
void rms_norm_grad(const float* x, const float* weight, const float* inverse, const float* gradient, float* for_x,
                   float* for_weight, int64_t rows, int64_t n) {
#pragma omp parallel for if (rows * n > kSmall)
  for (int64_t row = 0; row < rows; ++row) {
    const float *in = x + row * n, *g = gradient + row * n;
    const float scale = inverse[row];
    float along = 0.0f;
#pragma omp simd reduction(+ : along)
    for (int64_t i = 0; i < n; ++i) along += g[i] * weight[i] * in[i];
    along *= scale * scale / n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) for_x[row * n + i] = scale * (g[i] * weight[i] - in[i] * along);
  }
  if (!for_weight) return;
  std::vector<double> total(n, 0.0);
#pragma omp parallel if (rows * n > kSmall)
  {
#pragma omp for schedule(static)
    for (int64_t column = 0; column < n; column += 16) {
      const int64_t width = n - column < 16 ? n - column : 16;
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = column; i < column + width; ++i)
          total[i] += gradient[row * n + i] * x[row * n + i] * inverse[row];
    }
  }
  for (int64_t i = 0; i < n; ++i) for_weight[i] = static_cast<float>(total[i]);
}

// The first `turned` numbers of each head are turned by cos and sin, the rest are copied. inverse: turn back.
void rotary(const float* x, const float* cosine, const float* sine, float* y, int64_t tokens, int64_t heads, int64_t size,
            int64_t turned, int inverse) {
  const int64_t half = turned / 2;
#pragma omp parallel for if (tokens * heads * size > kSmall)
  for (int64_t token = 0; token < tokens; ++token) {
    const float *c = cosine + token * turned, *s = sine + token * turned;
    for (int64_t head = 0; head < heads; ++head) {
      const float* in = x + (token * heads + head) * size;
      float* out = y + (token * heads + head) * size;
      if (inverse) {
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const float a = in[i], b = in[i + half];
          out[i] = a * c[i] + b * s[i + half];
          out[i + half] = b * c[i + half] - a * s[i];
        }
      } else {
#pragma omp simd
        for (int64_t i = 0; i < half; ++i) {
          const float a = in[i], b = in[i + half];
          out[i] = a * c[i] - b * s[i];
          out[i + half] = b * c[i + half] + a * s[i + half];
        }
      }
      for (int64_t i = turned; i < size; ++i) out[i] = in[i];
    }
  }
}

void swiglu(const float* gate, const float* up, float* y, int64_t n) {
#pragma omp parallel for simd if (n > kSmall)
  for (int64_t i = 0; i < n; ++i) y[i] = gate[i] / (1.0f + Exp(-gate[i])) * up[i];
}

void swiglu_grad(const float* gate, const float* up, const float* gradient, float* for_gate, float* for_up, int64_t n) {
#pragma omp parallel for simd if (n > kSmall)
  for (int64_t i = 0; i < n; ++i) {
    const float share = 1.0f / (1.0f + Exp(-gate[i]));
    for_up[i] = gradient[i] * gate[i] * share;
    for_gate[i] = gradient[i] * up[i] * share * (1.0f + gate[i] * (1.0f - share));
  }
}

// scores become the gradient of the summed loss; returns the sum.
double cross_entropy_in_place(float* scores, const int64_t* labels, int64_t rows, int64_t n) {
  double total = 0.0;
#pragma omp parallel for reduction(+ : total) if (rows * n > kSmall)
  for (int64_t row = 0; row < rows; ++row) {
    float* score = scores + row * n;
    const float most = Max(score, n), wanted = score[labels[row]];
    const float sum = ExpRow(score, n, most), share = 1.0f / sum;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) score[i] *= share;
    score[labels[row]] -= 1.0f;
    total += std::log(sum) + most - wanted;
  }
  return total;
}

// log_sums [queries, heads]: log of the sum of exponentials of each query's scores, for the backward pass. Where only
// some tokens ask, query_starts [segments + 1] are the numbers of the first in each segment and positions [queries] where
// in their segments they stand; both null where all do.
void attention(const float* query, const float* key, const float* value, float* output, float* log_sums,
               const int64_t* starts, int64_t segments, int64_t heads, int64_t groups, int64_t size, int64_t window,
               float scale, const int64_t* query_starts, const int64_t* positions) {
  const int q_stride = static_cast<int>(heads * size), k_stride = static_cast<int>(groups * size);
#pragma omp parallel if (starts[segments] * heads * size > kSmall)
  {
    std::vector<float> scores;
#pragma omp for collapse(2) schedule(monotonic : dynamic)
    for (int64_t segment = 0; segment < segments; ++segment) {
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t begin = starts[segment];
        const Queries queries(starts, query_starts, positions, segment);
        const float* keys = key + (begin * groups + head / (heads / groups)) * size;
        const float* values = value + (begin * groups + head / (heads / groups)) * size;
        for (int64_t start = 0; start < queries.count; start += kQueryBlock) {
          const Block block(queries, start, window);
          const int rows = static_cast<int>(block.rows()), width = static_cast<int>(block.keys());
          scores.resize(static_cast<size_t>(rows) * width);
          const int64_t at_query = ((queries.first + start) * heads + head) * size;
          float* out = output + at_query;
          cblas_sgemm(kRowMajor, kPlain, kTransposed, rows, width, static_cast<int>(size), scale, query + at_query, q_stride,
                      keys + block.first * k_stride, k_stride, 0.0f, scores.data(), width);
          for (int64_t row = 0; row < rows; ++row) {
            float* score = scores.data() + row * width;
            const int64_t from = block.from(row), to = block.to(row);
            const float most = Max(score + from, to - from);
            const float sum = ExpRow(score + from, to - from, most), share = 1.0f / sum;
            for (int64_t i = 0; i < from; ++i) score[i] = 0.0f;
#pragma omp simd
            for (int64_t i = from; i < to; ++i) score[i] *= share;
            for (int64_t i = to; i < width; ++i) score[i] = 0.0f;
            log_sums[(queries.first + start + row) * heads + head] = most + std::log(sum);
          }
          cblas_sgemm(kRowMajor, kPlain, kPlain, rows, static_cast<int>(size), width, 1.0f, scores.data(), width,
                      values + block.first * k_stride, k_stride, 0.0f, out, q_stride);
        }
      }
    }
  }
}

// A thread owns a group of a segment, so nothing is added by two.
void attention_grad(const float* query, const float* key, const float* value, const float* output, const float* log_sums,
                    const float* gradient, float* for_query, float* for_key, float* for_value, const int64_t* starts,
                    int64_t segments, int64_t heads, int64_t groups, int64_t size, int64_t window, float scale,
                    const int64_t* query_starts, const int64_t* positions) {
  const int q_stride = static_cast<int>(heads * size), k_stride = static_cast<int>(groups * size);
  const int64_t share = heads / groups;
  const int inner = static_cast<int>(size);
#pragma omp parallel if (starts[segments] * heads * size > kSmall)
  {
    std::vector<float> weights, scores;
#pragma omp for collapse(2) schedule(monotonic : dynamic)
    for (int64_t segment = 0; segment < segments; ++segment) {
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t begin = starts[segment], length = starts[segment + 1] - begin;
        const Queries queries(starts, query_starts, positions, segment);
        for (int64_t row = begin; row < begin + length; ++row) {
          std::fill_n(for_key + (row * groups + group) * size, size, 0.0f);
          std::fill_n(for_value + (row * groups + group) * size, size, 0.0f);
        }
        for (int64_t head = group * share; head < (group + 1) * share; ++head) {
          for (int64_t start = 0; start < queries.count; start += kQueryBlock) {
            const Block block(queries, start, window);
            const int rows = static_cast<int>(block.rows()), width = static_cast<int>(block.keys());
            const int64_t at_query = ((queries.first + start) * heads + head) * size;
            const int64_t at_key = ((begin + block.first) * groups + group) * size;
            weights.resize(static_cast<size_t>(rows) * width);
            scores.resize(static_cast<size_t>(rows) * width);
            cblas_sgemm(kRowMajor, kPlain, kTransposed, rows, width, inner, scale, query + at_query, q_stride,
                        key + at_key, k_stride, 0.0f, weights.data(), width);
            cblas_sgemm(kRowMajor, kPlain, kTransposed, rows, width, inner, 1.0f, gradient + at_query, q_stride,
                        value + at_key, k_stride, 0.0f, scores.data(), width);
            for (int64_t row = 0; row < rows; ++row) {
              float *weight = weights.data() + row * width, *score = scores.data() + row * width;
              const float *out = output + at_query + row * q_stride, *g = gradient + at_query + row * q_stride;
              float along = 0.0f;
#pragma omp simd reduction(+ : along)
              for (int64_t i = 0; i < size; ++i) along += out[i] * g[i];
              const int64_t from = block.from(row), to = block.to(row);
              const float log_sum = log_sums[(queries.first + start + row) * heads + head];
              for (int64_t i = 0; i < from; ++i) weight[i] = score[i] = 0.0f;
#pragma omp simd
              for (int64_t i = from; i < to; ++i) {
                weight[i] = Exp(weight[i] - log_sum);
                score[i] = weight[i] * (score[i] - along) * scale;
              }
              for (int64_t i = to; i < width; ++i) weight[i] = score[i] = 0.0f;
            }
            cblas_sgemm(kRowMajor, kPlain, kPlain, rows, inner, width, 1.0f, scores.data(), width, key + at_key, k_stride,
                        0.0f, for_query + at_query, q_stride);
            cblas_sgemm(kRowMajor, kTransposed, kPlain, width, inner, rows, 1.0f, scores.data(), width, query + at_query,
                        q_stride, 1.0f, for_key + at_key, k_stride);
            cblas_sgemm(kRowMajor, kTransposed, kPlain, width, inner, rows, 1.0f, weights.data(), width,
                        gradient + at_query, q_stride, 1.0f, for_value + at_key, k_stride);
          }
        }
      }
    }
  }
}

}  // extern "C"
