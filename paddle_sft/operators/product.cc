// Float32 matrix products. Where the processor has AMX's bfloat16 tiles, a float32 number is cut into three bfloat16
// numbers that add up to it exactly (8 + 8 + 8 bits), and six of the nine products of parts are added in float32; the
// other three are below 2^-23 of the product (Henry, Tang and Heinecke 2019, https://arxiv.org/abs/1904.06376). Elsewhere,
// and for small products, MKL computes. Parts below 1.2e-38 count as zero. What is not finite stays so.

#include "product.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

extern "C" void cblas_sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a,
                            int lda, const float* b, int ldb, float beta, float* c, int ldc);

#if defined(__AMX_BF16__) && defined(__AVX512BW__) && defined(__linux__)
#define HAS_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAS_TILES 0
#endif

namespace {

constexpr int kRowMajor = 101, kPlain = 111, kTransposed = 112;
constexpr int64_t kNarrow = 32, kLeast = 96, kLeastDeep = 32;
constexpr int64_t kSmall = 32768;  // numbers up to which waking another thread takes longer than it saves

// c += alpha a b for a few columns of a: bound by memory, where MKL takes ten times as long.
void AddNarrow(const Term& t, int64_t m, int64_t n, float* c, int64_t c_stride) {
#pragma omp parallel for schedule(static) if (m * n > kSmall)
  for (int64_t row = 0; row < m; ++row) {
    float* to = c + row * c_stride;
    int64_t k = 0;
    for (; k + 4 <= t.k; k += 4) {
      const float *by = t.a + row * t.a_stride + k, *from = t.b + k * t.b_stride;
      const float b0 = t.alpha * by[0], b1 = t.alpha * by[1], b2 = t.alpha * by[2], b3 = t.alpha * by[3];
      const float *f1 = from + t.b_stride, *f2 = f1 + t.b_stride, *f3 = f2 + t.b_stride;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) to[i] += b0 * from[i] + b1 * f1[i] + b2 * f2[i] + b3 * f3[i];
    }
    for (; k < t.k; ++k) {
      const float by = t.alpha * t.a[row * t.a_stride + k];
      const float* from = t.b + k * t.b_stride;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) to[i] += by * from[i];
    }
  }
}

void AddByMkl(const Term* terms, int num_terms, int64_t m, int64_t n, float* c, int64_t c_stride, const float* start) {
  if (start && start != c) {
#pragma omp parallel for schedule(static) if (m * n > kSmall)
    for (int64_t row = 0; row < m; ++row) std::copy_n(start + row * c_stride, n, c + row * c_stride);
  }
  for (int i = 0; i < num_terms; ++i) {
    const Term& t = terms[i];
    const bool adds = start || i > 0;
    if (adds && t.k <= kNarrow && !t.transpose_a && !t.transpose_b) {
      AddNarrow(t, m, n, c, c_stride);
      continue;
    }
    cblas_sgemm(kRowMajor, t.transpose_a ? kTransposed : kPlain, t.transpose_b ? kTransposed : kPlain,
                static_cast<int>(m), static_cast<int>(n), static_cast<int>(t.k), t.alpha, t.a,
                static_cast<int>(t.a_stride), t.b, static_cast<int>(t.b_stride), adds ? 1.0f : 0.0f, c,
                static_cast<int>(c_stride));
  }
}

#if HAS_TILES

constexpr int64_t kSide = 32;      // a panel is 32 rows of A or 32 columns of B: two tiles
constexpr int64_t kDeep = 32;      // bfloat16 numbers along k in a tile
constexpr int64_t kPart = 1024;    // bfloat16 numbers of one part of a panel's step: 32 x 32
constexpr int64_t kStep = 3 * kPart;
constexpr int64_t kSteps = 18;     // most steps packed at a time: a panel of 108 KiB; the errors of a sum are MKL's
constexpr int64_t kRows = 1024;    // rows of A packed at a time
constexpr int64_t kColumns = 1024; // columns of B packed at a time
constexpr int64_t kTask = 8;       // panels of B in one thread's task: they stay in its cache while those of A go by

// 32 numbers along k of one term.
struct Step {
  const Term* term;
  int64_t k, count;
};

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

bool AskForTiles() {
  const char* wanted = std::getenv("PADDLE_SFT_AMX");
  if (wanted && std::strcmp(wanted, "0") == 0) return false;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void UseTiles() {
  TileConfig config;
  std::fill_n(config.bytes, 8, uint16_t{64});
  std::fill_n(config.rows, 8, uint8_t{16});
  _tile_loadconfig(&config);
}

void Transpose(__m512i* r) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

// x -> three numbers whose upper halves are bfloat16 numbers that add up to x.
inline void Cut(__m512 x, __m512i* parts) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  parts[0] = _mm512_and_si512(_mm512_castps_si512(x), upper);
  const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(parts[0]));
  parts[1] = _mm512_and_si512(_mm512_castps_si512(rest), upper);
  // of a number below 1e-33 this rest has bits in its lower half too, which would reach the number beside it
  parts[2] = _mm512_and_si512(_mm512_castps_si512(_mm512_sub_ps(rest, _mm512_castsi512_ps(parts[1]))), upper);
}

inline __mmask16 First(int64_t n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }

// One step of a panel into tiles. lanes: rows of A or columns of B that are there. kAlongK: the numbers of a lane lie side
// by side; kForA: so they must lie in the tile, else in pairs under each other.
template <bool kAlongK, bool kForA, bool kWhole>
inline void PackStep(const float* from, int64_t stride, int64_t lanes, int64_t count, __m512 scale, uint16_t* to) {
  const __m512i odd = _mm512_set_epi16(63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25,
                                       23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
  for (int tile = 0; tile < 2; ++tile, to += 512) {
    const int64_t there = lanes - 16 * tile;
    __m512i rows[3][16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; ++i) {
      const float* x = kAlongK ? from + (16 * tile + i) * stride : from + 2 * i * stride + 16 * tile;
      const float* y = x + (kAlongK ? 16 : stride);
      const char* next = reinterpret_cast<const char*>(kAlongK ? x + kDeep : x + kDeep * stride);
      _mm_prefetch(next, _MM_HINT_T0);
      _mm_prefetch(next + (kAlongK ? 64 : 4 * stride), _MM_HINT_T0);
      __m512i parts[3], others[3];
      if (kWhole) {
        Cut(_mm512_mul_ps(_mm512_loadu_ps(x), scale), parts);
        Cut(_mm512_mul_ps(_mm512_loadu_ps(y), scale), others);
      } else {
        const int64_t in_x = kAlongK ? (i < there ? count : 0) : 2 * i < count ? there : 0;
        const int64_t in_y = kAlongK ? (i < there ? count - 16 : 0) : 2 * i + 1 < count ? there : 0;
        Cut(_mm512_mul_ps(_mm512_maskz_loadu_ps(First(in_x), x), scale), parts);
        Cut(_mm512_mul_ps(_mm512_maskz_loadu_ps(First(in_y), y), scale), others);
      }
#pragma GCC unroll 3
      for (int part = 0; part < 3; ++part) {
        const __m512i pairs = kAlongK ? _mm512_permutex2var_epi16(parts[part], odd, others[part])
                                      : _mm512_or_si512(_mm512_srli_epi32(parts[part], 16), others[part]);
        if (kAlongK == kForA)
          _mm512_store_si512(to + part * kPart + i * 32, pairs);
        else
          rows[part][i] = pairs;
      }
    }
    if (kAlongK == kForA) continue;
    for (int part = 0; part < 3; ++part) {
      Transpose(rows[part]);
      for (int i = 0; i < 16; ++i) _mm512_store_si512(to + part * kPart + i * 32, rows[part][i]);
    }
  }
}

// Panel of A (rows) or B (columns) from `begin` on, for steps [0, num) of `steps`.
template <bool kForA>
void PackPanel(const Step* steps, int64_t num, int64_t begin, int64_t lanes, uint16_t* to) {
  for (int64_t s = 0; s < num; ++s, to += kStep) {
    const Term& term = *steps[s].term;
    const bool along_k = kForA ? !term.transpose_a : term.transpose_b, whole = lanes == kSide && steps[s].count == kDeep;
    const int64_t stride = kForA ? term.a_stride : term.b_stride;
    const float* from = (kForA ? term.a : term.b) + (along_k ? begin * stride + steps[s].k : steps[s].k * stride + begin);
    const __m512 scale = _mm512_set1_ps(kForA ? term.alpha : 1.0f);
    const auto pack = along_k ? (whole ? PackStep<true, kForA, true> : PackStep<true, kForA, false>)
                              : (whole ? PackStep<false, kForA, true> : PackStep<false, kForA, false>);
    pack(from, stride, lanes, steps[s].count, scale, to);
  }
}

// c [32, 32] = a b over `num` steps. The path through the pairs of parts changes one side at a time. With each step so many
// lines of 64 bytes of what comes next are fetched.
void MultiplyPanels(const uint16_t* a, const uint16_t* b, int64_t num, float* c, int64_t stride, const char* next,
                    int64_t lines) {
#define LOAD_A(part)                           \
  _tile_loadd(4, a + (part) * kPart, 64);      \
  _tile_loadd(5, a + (part) * kPart + 512, 64)
#define LOAD_B(part)                           \
  _tile_loadd(6, b + (part) * kPart, 64);      \
  _tile_loadd(7, b + (part) * kPart + 512, 64)
#define MULTIPLY           \
  _tile_dpbf16ps(0, 4, 6); \
  _tile_dpbf16ps(1, 4, 7); \
  _tile_dpbf16ps(2, 5, 6); \
  _tile_dpbf16ps(3, 5, 7)
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t s = 0; s < num; ++s, a += kStep, b += kStep) {
    for (int64_t i = 0; i < lines; ++i, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    LOAD_A(2);
    LOAD_B(0);
    MULTIPLY;
    LOAD_A(1);
    MULTIPLY;
    LOAD_B(1);
    MULTIPLY;
    LOAD_A(0);
    MULTIPLY;
    LOAD_B(2);
    MULTIPLY;
    LOAD_B(0);
    MULTIPLY;
  }
#undef LOAD_A
#undef LOAD_B
#undef MULTIPLY
  _tile_stored(0, c, stride * 4);
  _tile_stored(1, c + 16, stride * 4);
  _tile_stored(2, c + 16 * stride, stride * 4);
  _tile_stored(3, c + 16 * stride + 16, stride * 4);
}

// c = [start +] a b where c has `rows` rows and `columns` columns. A sum of many steps is one of sums of kSteps: smaller
// errors.
void AddPanels(const uint16_t* a, const uint16_t* b, int64_t num, float* c, int64_t stride, const float* start,
               int64_t rows, int64_t columns, const char* next, int64_t lines) {
  if (!start && rows == kSide && columns == kSide) return MultiplyPanels(a, b, num, c, stride, next, lines);
  alignas(64) float sum[kSide * kSide];
  MultiplyPanels(a, b, num, sum, kSide, next, lines);
  for (int64_t row = 0; row < rows; ++row) {
    float* to = c + row * stride;
    const float *from = sum + row * kSide, *plus = start ? start + row * stride : nullptr;
    if (!start)
      std::copy_n(from, columns, to);
    else if (columns == kSide)
      for (int64_t i = 0; i < kSide; ++i) to[i] = plus[i] + from[i];
    else
      for (int64_t i = 0; i < columns; ++i) to[i] = plus[i] + from[i];
  }
}

// The processor notes inf - inf, which is what cutting an infinity comes to: looking for one costs nothing.
void ForgetInfinity() { _mm_setcsr(_mm_getcsr() & ~static_cast<unsigned>(_MM_EXCEPT_INVALID)); }
bool MetInfinity() { return _mm_getcsr() & _MM_EXCEPT_INVALID; }

// c [rows, columns] = [start +] a b over `num` steps, by MKL: parts of an infinity would give NaN where float32 gives
// infinity.
void AddStepsByMkl(const Step* steps, int64_t num, int64_t row, int64_t column, int64_t rows, int64_t columns, float* c,
                   int64_t stride, const float* start) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) c[i * stride + j] = start ? start[i * stride + j] : 0.0f;
  for (int64_t s = 0; s < num; ++s) {
    const Term& t = *steps[s].term;
    const float* a = t.a + (t.transpose_a ? steps[s].k * t.a_stride + row : row * t.a_stride + steps[s].k);
    const float* b = t.b + (t.transpose_b ? column * t.b_stride + steps[s].k : steps[s].k * t.b_stride + column);
    cblas_sgemm(kRowMajor, t.transpose_a ? kTransposed : kPlain, t.transpose_b ? kTransposed : kPlain,
                static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(steps[s].count), t.alpha, a,
                static_cast<int>(t.a_stride), b, static_cast<int>(t.b_stride), 1.0f, c, static_cast<int>(stride));
  }
}

struct Scratch {
  uint16_t* memory = static_cast<uint16_t*>(std::aligned_alloc(64, (kRows + kColumns) * kDeep * kSteps * 3 * sizeof(uint16_t)));
  ~Scratch() { std::free(memory); }
};

void AddByTiles(const Term* terms, int num_terms, int64_t m, int64_t n, float* c, int64_t c_stride, const float* start) {
  static thread_local Scratch scratch;
  uint16_t *packed_a = scratch.memory, *packed_b = packed_a + kRows * kDeep * kSteps * 3;
  std::vector<Step> steps;
  for (int i = 0; i < num_terms; ++i)
    for (int64_t k = 0; k < terms[i].k; k += kDeep) steps.push_back({terms + i, k, std::min(kDeep, terms[i].k - k)});
  const int64_t num_steps = static_cast<int64_t>(steps.size()), blocks = (num_steps + kSteps - 1) / kSteps;
  const int64_t together = (num_steps + blocks - 1) / blocks;
  const int64_t threads = omp_get_max_threads();
  int64_t infinite = -1;  // number of the last part in which there was an infinity
#pragma omp parallel if (m * n * num_steps > kSmall)
  {
    UseTiles();
    int64_t part = 0;
    for (int64_t row = 0; row < m; row += kRows)
      for (int64_t step = 0; step < num_steps; step += together)
        for (int64_t column = 0; column < n; column += kColumns, ++part) {
          const int64_t rows = std::min(kRows, m - row), columns = std::min(kColumns, n - column);
          const int64_t num = std::min(together, num_steps - step), panel = num * kStep;
          const int64_t down = (rows + kSide - 1) / kSide, across = (columns + kSide - 1) / kSide;
          if (!column) ForgetInfinity();  // A is packed once for all columns
#pragma omp for schedule(monotonic : dynamic) nowait
          for (int64_t p = column ? down : 0; p < down + across; ++p) {
            const bool for_a = p < down;
            const int64_t at = (for_a ? p : p - down) * kSide;
            if (for_a)
              PackPanel<true>(steps.data() + step, num, row + at, std::min(kSide, rows - at), packed_a + at / kSide * panel);
            else
              PackPanel<false>(steps.data() + step, num, column + at, std::min(kSide, columns - at),
                               packed_b + at / kSide * panel);
          }
          if (MetInfinity()) {
#pragma omp atomic write
            infinite = part;
          }
#pragma omp barrier
          if (infinite == part) {
#pragma omp single
            {
              const int64_t at = row * c_stride + column;
              AddStepsByMkl(steps.data() + step, num, row, column, rows, columns, c + at, c_stride,
                            step ? c + at : start ? start + at : nullptr);
            }
            continue;
          }
          const int64_t tasks_across = (across + kTask - 1) / kTask;
          const int64_t cuts = (2 * threads + tasks_across - 1) / tasks_across;  // two tasks a thread: they end together
          const int64_t tall = std::max(kTask, (down + cuts - 1) / cuts), tasks_down = (down + tall - 1) / tall;
#pragma omp for schedule(monotonic : dynamic)
          for (int64_t task = 0; task < tasks_down * tasks_across; ++task) {
            const int64_t i0 = task % tasks_down * tall, i1 = std::min(i0 + tall, down);
            const int64_t j0 = task / tasks_down * kTask, j1 = std::min(j0 + kTask, across);
            const int64_t lines = kStep / 32 / (j1 - j0);  // of the next panel of A, with each step
            for (int64_t i = i0; i < i1; ++i)
              for (int64_t j = j0; j < j1; ++j) {
                const int64_t at = (row + i * kSide) * c_stride + column + j * kSide;
                const float* plus = step ? c + at : start ? start + at : nullptr;
                const int64_t height = std::min(kSide, rows - i * kSide), width = std::min(kSide, columns - j * kSide);
                const char* next = reinterpret_cast<const char*>(packed_a + (i + 1) * panel) + (j - j0) * num * lines * 64;
                AddPanels(packed_a + i * panel, packed_b + j * panel, num, c + at, c_stride, plus, height, width, next,
                          i + 1 < i1 ? lines : 0);
              }
          }
        }
    _tile_release();
  }
}

#endif

// The numbers of B are cut for m rows, those of A for n columns: with fewer, cutting takes longer than tiles save.
bool PaysWithTiles(int64_t m, int64_t n, int64_t k) {
#if HAS_TILES
  static const bool there = AskForTiles();
  return there && std::min(m, n) >= kLeast && k >= kLeastDeep;
#else
  return false;
#endif
}

}  // namespace

void AddProducts(const Term* terms, int num_terms, int64_t m, int64_t n, float* c, int64_t c_stride, const float* start) {
#if HAS_TILES
  int64_t k = 0;
  for (int i = 0; i < num_terms; ++i) k = std::max(k, terms[i].k);
  if (PaysWithTiles(m, n, k)) return AddByTiles(terms, num_terms, m, n, c, c_stride, start);
#endif
  AddByMkl(terms, num_terms, m, n, c, c_stride, start);
}

extern "C" {

// c [m, n] = alpha op(a) op(b), added to what is there if `accumulate`; all rows dense.
void product(const float* a, const float* b, float* c, int64_t m, int64_t n, int64_t k, int transpose_a, int transpose_b,
             float alpha, int accumulate) {
  const Term term{a, b, transpose_a ? m : k, transpose_b ? k : n, k, transpose_a != 0, transpose_b != 0, alpha};
  AddProducts(&term, 1, m, n, c, n, accumulate ? c : nullptr);
}

int products_use_tiles() { return PaysWithTiles(kLeast, kLeast, kLeast); }

}  // extern "C"
