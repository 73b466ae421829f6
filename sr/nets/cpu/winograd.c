/* 3 x 3 convolutions of stride 1 with a margin of one zero, in float32, by Winograd's F(4x4, 3x3) and F(6x6, 3x3):

   Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016. 4 x 4 pixels of the output come from 6 x 6
   of the input. Both and the kernel are taken to 36 places, at each of which the sum over channels is a plain product
   of matrices: 36 multiplications instead of 144. 6 x 6 pixels take 64 in place of 324, and are off by twice as much.
   The gradient of the kernel is F(4x4, 3x3) with 4 x 4 taps and 3 x 3 outputs. Called by winograd.py.

   Pictures lie as [batch][height][width][pixel], of which the first channels are meant: a view of some channels needs
   no copy. Sums are added in one order, whatever the number of threads. */

#include <stdlib.h>
#include <string.h>

enum { PLACES = 36, MOST_PLACES = 64, MOST = 2048, SIX = 6, TOGETHER = 48, TOGETHER_6 = 24 };

struct Picture {
  int batch, height, width;
};

struct Input {
  const float *pixels;
  long pixel;
  int channels;
};

/* What becomes of a sum: leaky_relu(factor * (sum + bias), slope) + add. bias, add: may be NULL. */
struct Output {
  float *pixels;
  long pixel;
  int channels;
  const float *bias;
  float factor, slope;
  const float *add;
  long add_pixel;
  int width;
};

/* taps of [out][in][3][3], in floats apart by these strides, which may also turn or transpose it. */
struct Kernel {
  float *taps;
  long out, in, row, col;
};

struct Lanes {
  void (*tile_in[2])(const float *const *, const float *const *, int, float *, long, long); /* F(4x4), F(6x6) */
  void (*gradient_in)(const float *const *, const float *const *, int, float *, long, long);
  void (*tile_out[2])(const float *, long, const struct Output *, long, int, int);
  void (*kernel_in[2])(const float[9][16], float *, long);
  void (*taps_out)(const float *, long, float[9][16]);
  void (*product)(const float *, const float *, float *, int, int, int);
  void (*outer)(const float *, const float *, float *, int, int, int, long);
};

/* WIDE: panels of 16 columns that one block of a product has registers for. */
#define LANES 4
#define NAME(x) plain_##x
#define TARGET
#define WIDE 1
#include "winograd_lanes.h"
#ifdef __x86_64__
#define LANES 8
#define NAME(x) avx2_##x
#define TARGET __attribute__((target("avx2,fma")))
#define WIDE 1
#include "winograd_lanes.h"
#define LANES 16
#define NAME(x) avx512_##x
#define TARGET __attribute__((target("avx512f,fma")))
#define WIDE 2
#include "winograd_lanes.h"
#endif

/* Of the functions and structures that winograd.py calls: both count up together. */
int winograd_version(void) { return 2; }

static int least = 0; /* for tests: 1 and 2 forbid AVX-512, and AVX2 too */

void winograd_forbid(int level) { least = level; }

/* Floats in a vector here. */
int winograd_lanes(void) {
#ifdef __x86_64__
  if (least < 1 && __builtin_cpu_supports("avx512f")) return 16;
  if (least < 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 8;
#endif
  return 4;
}

static const struct Lanes *lanes(void) {
#ifdef __x86_64__
  if (winograd_lanes() == 16) return &avx512_lanes;
  if (winograd_lanes() == 8) return &avx2_lanes;
#endif
  return &plain_lanes;
}

static const float zeros[MOST];

/* Memory that a thread keeps for its next call: to take it anew from the system costs more than to fill it. NULL where
   there is none. */
enum Use { TILES, KERNEL, USES };

static float *room(enum Use use, size_t floats) {
  static __thread float *kept[USES];
  static __thread size_t size[USES];
  if (floats > size[use]) {
    free(kept[use]);
    kept[use] = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    size[use] = kept[use] ? floats : 0;
  }
  return kept[use];
}

struct Tile {
  long place; /* of its first pixel, counted over the batch */
  int top, left, rows, cols;
};

static int covers(int length, int side) { return (length + side - 1) / side; }

static long tiles(struct Picture p, int side) {
  return (long)p.batch * covers(p.height, side) * covers(p.width, side);
}

/* side: of a tile of the output */
static struct Tile tile(struct Picture p, int side, long number) {
  int across = covers(p.width, side), down = covers(p.height, side);
  int left = side * (int)(number % across), top = side * (int)(number / across % down);
  struct Tile t = {(number / across / down * p.height + top) * p.width + left, top, left, p.height - top,
                   p.width - left};
  if (t.rows > side) t.rows = side;
  if (t.cols > side) t.cols = side;
  return t;
}

/* Where the around x around pixels of a tile and its margin, 1 or 0, lie: zeros for those outside the picture. */
static void surroundings(struct Picture p, struct Tile t, int around, struct Input in, int margin,
                         const float **pixels) {
  for (int i = 0; i < around; i++, pixels += around) {
    int y = t.top + i - margin, left = t.left - margin;
    const float *at = in.pixels + (t.place + (i - margin) * (long)p.width - margin) * in.pixel;
    if (y < 0 || y >= p.height)
      for (int j = 0; j < around; j++) pixels[j] = zeros;
    else
      for (int j = 0; j < around; j++, at += in.pixel) pixels[j] = left + j < 0 || left + j >= p.width ? zeros : at;
  }
}

/* tile_in or gradient_in (without a margin) of tiles first .. first + count, each `apart` floats after the other. */
static void tiles_in(struct Picture p, int side, struct Input in, int margin, long first, int count, float *to,
                     long apart, long step, long panel) {
  const struct Lanes *use = lanes();
  const float *pixels[2][MOST_PLACES];
  int around = side + 2 * margin;
  surroundings(p, tile(p, side, first), around, in, margin, pixels[0]);
  for (int n = 0; n < count; n++) {
    const float **now = pixels[n % 2], **next = n + 1 < count ? pixels[1 - n % 2] : now;
    if (next != now) surroundings(p, tile(p, side, first + n + 1), around, in, margin, next);
    (margin ? use->tile_in[side == 6] : use->gradient_in)(now, next, in.channels, to + n * apart, step, panel);
  }
}

/* Floats from one of the 36 places to the next: not a multiple of 4096 bytes, which would share lines of the cache. */
static long apart(long floats) { return floats + 16; }

/* Taps of 16 x 16 channels, [in][9][16]: read and written where they lie along `in`, which is together more often. */
static void gather(struct Kernel kernel, int out, int in, float taps[16][9][16]) {
  for (int n = 0; n < 16; n++)
    for (int k = 0; k < 9; k++) {
      const float *tap =
          kernel.taps + (out + n) * kernel.out + in * kernel.in + k / 3 * kernel.row + k % 3 * kernel.col;
      for (int c = 0; c < 16; c++) taps[c][k][n] = tap[c * kernel.in];
    }
}

static void scatter(float taps[16][9][16], struct Kernel kernel, int out, int in) {
  for (int n = 0; n < 16; n++)
    for (int k = 0; k < 9; k++) {
      float *tap = kernel.taps + (out + n) * kernel.out + in * kernel.in + k / 3 * kernel.row + k % 3 * kernel.col;
      for (int c = 0; c < 16; c++) tap[c * kernel.in] = taps[c][k][n];
    }
}

/* Tiles that go together: `most`, the same for each of the threads as far as they can be, full blocks. */
static long chunk_size(long all, long most, int threads) {
  long rounds = (all + most * threads - 1) / (most * threads);
  long size = (all + rounds * threads - 1) / (rounds * threads);
  return (size + SIX - 1) / SIX * SIX;
}

/* side: 4 or 6, of a tile. Returns 0, or 1 where there is no memory. */
int winograd_conv(struct Picture p, int side, struct Input in, struct Kernel kernel, struct Output out, int threads) {
  const struct Lanes *use = lanes();
  int places = (side + 2) * (side + 2), six = side == 6;
  long all = tiles(p, side), size = chunk_size(all, six ? TOGETHER_6 : TOGETHER, threads);
  long chunks = (all + size - 1) / size, in_step = apart(size * in.channels), out_step = apart(size * out.channels);
  long kernel_step = apart((long)in.channels * out.channels);
  float *u = room(KERNEL, places * kernel_step); /* [places][out / 16][in][16] */
  if (!u) return 1;
  int failed = 0;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for collapse(2)
    for (int n = 0; n < out.channels; n += 16)
      for (int c = 0; c < in.channels; c += 16) {
        float taps[16][9][16];
        gather(kernel, n, c, taps);
        for (int k = 0; k < 16; k++)
          use->kernel_in[six](taps[k], u + n * (long)in.channels + (c + k) * 16L, kernel_step);
      }
#pragma omp for schedule(dynamic) reduction(| : failed)
    for (long chunk = 0; chunk < chunks; chunk++) {
      float *v = room(TILES, places * (in_step + out_step)), *m = v + places * in_step;
      if (!v) {
        failed = 1;
        continue;
      }
      long first = chunk * size;
      int count = (int)(all - first < size ? all - first : size);
      tiles_in(p, side, in, 1, first, count, v, in.channels, in_step, 16);
      int rows = (count + SIX - 1) / SIX * SIX; /* what stands behind the last tile is multiplied, and left unused */
      for (int place = 0; place < places; place++)
        use->product(v + place * in_step, u + place * kernel_step, m + place * out_step, rows, in.channels,
                     out.channels);
      for (int n = 0; n < count; n++) {
        struct Tile t = tile(p, side, first + n);
        use->tile_out[six](m + n * (long)out.channels, out_step, &out, t.place, t.rows, t.cols);
      }
    }
  }
  return failed;
}

/* winograd_kernel_gradient of some channels of the input. sums: [36][in][gradient] in the work's own memory. */
static int some_of_kernel(struct Picture p, struct Input in, struct Input gradient, struct Kernel kernel) {
  const struct Lanes *use = lanes();
  int height = in.channels, columns = gradient.channels;
  long all = tiles(p, 4), panel = TOGETHER * 16L, in_step = apart(TOGETHER * (long)height);
  long out_step = apart(TOGETHER * (long)columns), sum_step = apart((long)height * columns);
  float *v = room(TILES, PLACES * (in_step + out_step + sum_step));
  if (!v) return 1;
  float *g = v + PLACES * in_step, *sums = g + PLACES * out_step;
  memset(sums, 0, PLACES * sum_step * sizeof(float));
  for (long first = 0; first < all; first += TOGETHER) {
    int count = all - first < TOGETHER ? (int)(all - first) : TOGETHER;
    tiles_in(p, 4, in, 1, first, count, v, 16, in_step, panel);
    tiles_in(p, 4, gradient, 0, first, count, g, 16, out_step, panel);
    for (int place = 0; place < PLACES; place++)
      use->outer(v + place * in_step, g + place * out_step, sums + place * sum_step, count, height, columns, panel);
  }
  for (int n = 0; n < columns; n += 16)
    for (int c = 0; c < height; c += 16) {
      float taps[16][9][16];
      for (int k = 0; k < 16; k++) use->taps_out(sums + (c + k) * (long)columns + n, sum_step, taps[k]);
      scatter(taps, kernel, n, c);
    }
  return 0;
}

/* The gradient of the kernel from that of the output, `gradient`. Each thread has channels of the input for itself:
   what is done again for each, the gradient's way to its places, costs less than to exchange it. Returns as
   winograd_conv. */
int winograd_kernel_gradient(struct Picture p, struct Input in, struct Input gradient, struct Kernel kernel,
                             int threads) {
  int units = in.channels / 16, parts = ((units + 3) / 4 + threads - 1) / threads * threads, failed = 0;
#pragma omp parallel for num_threads(threads) schedule(dynamic) reduction(| : failed)
  for (int part = 0; part < parts; part++) {
    int first = 16 * (units * part / parts), last = 16 * (units * (part + 1) / parts);
    struct Input some = {in.pixels + first, in.pixel, last - first};
    struct Kernel its = kernel;
    its.taps += first * kernel.in;
    if (last > first) failed |= some_of_kernel(p, some, gradient, its);
  }
  return failed;
}
