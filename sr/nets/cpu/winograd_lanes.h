/* What winograd.c compiles once for each instruction set. LANES: floats in a vector; NAME(x): the functions' own names;
   TARGET: their attribute. Channels are multiples of 16, and so of LANES. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int NAME(mask) __attribute__((vector_size(4 * LANES)));
#define vec NAME(vec)
#define PER 16 / LANES /* vectors in a panel of 16 columns */

TARGET static inline vec NAME(load)(const float *p) { return *(const vec *)p; }
TARGET static inline void NAME(store)(float *p, vec value) { *(vec *)p = value; }

/* clang-format off */
#define INLINE TARGET static inline __attribute__((always_inline))
/* clang-format on */

/* ---- one dimension, `side` pixels of the output (Lavin and Gray, section 4.3): the points are 0, 1, -1, 2, -2 and
   infinity for 4, and 1/2, -1/2 too for 6 -------------------------------------------------------------------------- */

INLINE void NAME(input)(int side, const vec *d, vec *t) {
  if (side == 6) {
    vec a = d[2] + d[6] - 4.25f * d[4], b = d[1] + d[5] - 4.25f * d[3];
    vec c = d[6] - 1.25f * d[4], e = 0.5f * d[1] - 2.5f * d[3] + 2 * d[5];
    vec f = d[6] - 5 * d[4], g = 2 * d[1] - 2.5f * d[3] + 0.5f * d[5];
    c += 0.25f * d[2], f += 4 * d[2];
    t[0] = d[0] - d[6] + 5.25f * (d[4] - d[2]);
    t[1] = a + b, t[2] = a - b, t[3] = c + e, t[4] = c - e, t[5] = f + g, t[6] = f - g;
    t[7] = d[7] - d[1] + 5.25f * (d[3] - d[5]);
  } else {
    vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    t[0] = 4 * d[0] - 5 * d[2] + d[4];
    t[1] = a + b, t[2] = a - b, t[3] = c + e, t[4] = c - e;
    t[5] = 4 * d[1] - 5 * d[3] + d[5];
  }
}

INLINE void NAME(output)(int side, const vec *m, vec *y) {
  vec s = m[1] + m[2], d = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
  if (side == 6) {
    vec u = m[5] + m[6], v = m[5] - m[6];
    y[0] = m[0] + s + p + 32 * u, y[1] = d + 2 * q + 16 * v, y[2] = s + 4 * p + 8 * u;
    y[3] = d + 8 * q + 4 * v, y[4] = s + 16 * p + 2 * u, y[5] = d + 32 * q + v + m[7];
  } else {
    y[0] = m[0] + s + p, y[1] = d + 2 * q, y[2] = s + 4 * p, y[3] = d + 8 * q + m[5];
  }
}

INLINE void NAME(kernel)(int side, const vec *g, vec *t) {
  vec s = g[0] + g[2], p = g[0] + 4 * g[2], q = 2 * g[1];
  if (side == 6) {
    vec r = 4 * g[0] + g[2];
    t[0] = g[0], t[1] = (s + g[1]) * (-2.f / 9), t[2] = (s - g[1]) * (-2.f / 9);
    t[3] = (p + q) * (1.f / 90), t[4] = (p - q) * (1.f / 90);
    t[5] = (r + q) * (1.f / 180), t[6] = (r - q) * (1.f / 180), t[7] = g[2];
  } else {
    t[0] = g[0] * (1.f / 4), t[1] = (s + g[1]) * (-1.f / 6), t[2] = (s - g[1]) * (-1.f / 6);
    t[3] = (p + q) * (1.f / 24), t[4] = (p - q) * (1.f / 24), t[5] = g[2];
  }
}

INLINE void NAME(gradient)(int side, const vec *g, vec *t) {
  vec s = g[0] + g[2], o = g[1] + g[3], p = g[0] + 4 * g[2], q = 2 * g[1] + 8 * g[3];
  t[0] = g[0] * (1.f / 4), t[1] = (s + o) * (-1.f / 6), t[2] = (s - o) * (-1.f / 6);
  t[3] = (p + q) * (1.f / 24), t[4] = (p - q) * (1.f / 24), t[5] = g[3];
}

INLINE void NAME(taps)(int side, const vec *m, vec *z) {
  vec s = m[1] + m[2], p = m[3] + m[4];
  z[0] = m[0] + s + p, z[1] = m[1] - m[2] + 2 * (m[3] - m[4]), z[2] = s + 4 * p + m[5];
}

/* Both dimensions: [N][N] vectors -> [M][M], by columns and then by rows. */
#define BOTH(ONE, N, M, FROM, TO)                        \
  vec half_[8][8];                                       \
  for (int j = 0; j < N; j++) {                          \
    vec column_[8], made_[8];                            \
    for (int i = 0; i < N; i++) column_[i] = FROM(i, j); \
    NAME(ONE)(side, column_, made_);                     \
    for (int i = 0; i < M; i++) half_[i][j] = made_[i];  \
  }                                                      \
  for (int i = 0; i < M; i++) {                          \
    vec made_[8];                                        \
    NAME(ONE)(side, half_[i], made_);                    \
    for (int j = 0; j < M; j++) TO(i, j, made_[j]);      \
  }

/* ---- two dimensions, LANES channels at a time ------------------------------------------------------------------- */

/* The pixels around a tile -> places, `step` apart, and 16 channels `panel` apart. next: the pixels that come after. */
INLINE void NAME(any_in)(int side, const float *const *pixels, const float *const *next, int channels, float *to,
                         long step, long panel) {
  int around = side + 2;
  for (int c = 0; c < channels; c += LANES) {
    if (c % 16 == 0)
      for (int n = 0; n < around * around; n++) __builtin_prefetch(next[n] + c);
#define FROM(i, j) NAME(load)(pixels[around * (i) + (j)] + c)
#define TO(i, j, value) NAME(store)(to + (around * (i) + (j)) * step + c / 16 * panel + c % 16, value)
    BOTH(input, around, around, FROM, TO)
#undef FROM
#undef TO
  }
}

/* 4 x 4 pixels of a gradient -> 36 places */
TARGET static void NAME(gradient_in)(const float *const *pixels, const float *const *next, int channels, float *to,
                                     long step, long panel) {
  enum { side = 4 };
  for (int c = 0; c < channels; c += LANES) {
    if (c % 16 == 0)
      for (int n = 0; n < 16; n++) __builtin_prefetch(next[n] + c);
#define FROM(i, j) NAME(load)(pixels[4 * (i) + (j)] + c)
#define TO(i, j, value) NAME(store)(to + (6 * (i) + (j)) * step + c / 16 * panel + c % 16, value)
    BOTH(gradient, 4, 6, FROM, TO)
#undef FROM
#undef TO
  }
}

/* Places -> rows x cols pixels of the output, at most side x side */
INLINE void NAME(any_out)(int side, const float *from, long step, const struct Output *out, long place, int rows,
                          int cols) {
  int around = side + 2;
  for (int c = 0; c < out->channels; c += LANES) {
    vec bias = out->bias ? NAME(load)(out->bias + c) : (vec){0};
#define FROM(i, j) NAME(load)(from + (around * (i) + (j)) * step + c)
#define TO(i, j, value)                                                      \
  if (i < rows && j < cols) {                                                \
    long pixel = place + (i) * (long)out->width + (j);                       \
    vec made = out->factor * (value + bias), low = out->slope * made;        \
    NAME(mask) keep = made > 0;                                              \
    made = (vec)(((NAME(mask))made & keep) | ((NAME(mask))low & ~keep));     \
    if (out->add) made += NAME(load)(out->add + pixel * out->add_pixel + c); \
    NAME(store)(out->pixels + pixel * out->pixel + c, made);                 \
  }
    BOTH(output, around, side, FROM, TO)
#undef FROM
#undef TO
  }
}

/* 9 taps of 16 columns -> places */
INLINE void NAME(any_kernel_in)(int side, const float taps[9][16], float *to, long step) {
  int around = side + 2;
  for (int c = 0; c < 16; c += LANES) {
#define FROM(i, j) NAME(load)(taps[3 * (i) + (j)] + c)
#define TO(i, j, value) NAME(store)(to + (around * (i) + (j)) * step + c, value)
    BOTH(kernel, 3, around, FROM, TO)
#undef FROM
#undef TO
  }
}

#define OF_SIDE(SIDE)                                                                                              \
  TARGET static void NAME(tile_in_##SIDE)(const float *const *pixels, const float *const *next, int channels,      \
                                          float *to, long step, long panel) {                                      \
    NAME(any_in)(SIDE, pixels, next, channels, to, step, panel);                                                   \
  }                                                                                                                \
  TARGET static void NAME(tile_out_##SIDE)(const float *from, long step, const struct Output *out, long place,     \
                                           int rows, int cols) {                                                   \
    NAME(any_out)(SIDE, from, step, out, place, rows, cols);                                                       \
  }                                                                                                                \
  TARGET static void NAME(kernel_in_##SIDE)(const float taps[9][16], float *to, long step) {                       \
    NAME(any_kernel_in)(SIDE, taps, to, step);                                                                     \
  }
OF_SIDE(4)
OF_SIDE(6)
#undef OF_SIDE

/* 36 places -> 9 taps of 16 columns */
TARGET static void NAME(taps_out)(const float *from, long step, float taps[9][16]) {
  enum { side = 4 };
  for (int c = 0; c < 16; c += LANES) {
#define FROM(i, j) NAME(load)(from + (6 * (i) + (j)) * step + c)
#define TO(i, j, value) NAME(store)(taps[3 * (i) + (j)] + c, value)
    BOTH(taps, 6, 3, FROM, TO)
#undef FROM
#undef TO
  }
}

/* ---- matrices ---------------------------------------------------------------------------------------------------- */

/* c[ROWS][16 * panels] (+)= sum over k of a[ROWS][k] b[k][16 * panels], all in registers */
#define BLOCK(ROWS, A, B, FIRST)                                      \
  vec sum[ROWS][2 * PER];                                             \
  for (int i = 0; i < ROWS; i++)                                      \
    for (int j = 0; j < PER * panels; j++) sum[i][j] = FIRST;         \
  for (int k = 0; k < depth; k++) {                                   \
    vec row[2 * PER];                                                 \
    for (int j = 0; j < PER * panels; j++) row[j] = NAME(load)(B);    \
    for (int i = 0; i < ROWS; i++)                                    \
      for (int j = 0; j < PER * panels; j++) sum[i][j] += A * row[j]; \
  }                                                                   \
  for (int i = 0; i < ROWS; i++)                                      \
    for (int j = 0; j < PER * panels; j++) NAME(store)(c + i * (long)columns + LANES * j, sum[i][j]);

/* clang-format off */
/* a: [SIX][depth]; b: panels of [depth][16]; c: rows of `columns` */
INLINE void NAME(product_block)(const float *a, const float *b, float *c, int depth, int columns, int panels) {
  BLOCK(SIX, a[i * (long)depth + k], b + (j / (PER) * depth + k) * 16L + j % (PER) * LANES, ((vec){0}))
}

/* a, b: panels of [depth][16], of a ROWS of the 16; c: rows of `columns` */
#define OUTER(ROWS)                                                                                    \
  INLINE void NAME(outer_##ROWS)(const float *a, const float *b, float *c, int depth, int columns) {   \
    enum { panels = 1 };                                                                               \
    BLOCK(ROWS, a[k * 16L + i], b + k * 16L + LANES * j, NAME(load)(c + i * (long)columns + LANES * j)) \
  }
#if LANES == 16
OUTER(16)
#else
OUTER(6)
OUTER(4)
#endif
/* clang-format on */
#undef OUTER
#undef INLINE

/* c[rows][columns] = a[rows][depth] b; rows: a multiple of SIX; b: panels of [depth][16] */
TARGET static void NAME(product)(const float *a, const float *b, float *c, int rows, int depth, int columns) {
  for (int n = 0; n < columns; n += 16 * WIDE)
    for (int m = 0; m < rows; m += SIX) {
      const float *left = a + m * (long)depth, *right = b + n * (long)depth;
      float *to = c + m * (long)columns + n;
      if (n + 16 * WIDE <= columns)
        NAME(product_block)(left, right, to, depth, columns, WIDE);
      else
        NAME(product_block)(left, right, to, depth, columns, 1);
    }
}

/* c[height][columns] += a^T b, of both in panels of [depth][16], each `panel` after the other */
TARGET static void NAME(outer)(const float *a, const float *b, float *c, int depth, int height, int columns,
                               long panel) {
  for (int n = 0; n < columns; n += 16)
    for (int m = 0; m < height; m += 16) {
      const float *left = a + m / 16 * panel, *right = b + n / 16 * panel;
      float *to = c + m * (long)columns + n;
#if LANES == 16 /* twice the registers */
      NAME(outer_16)(left, right, to, depth, columns);
#else
      NAME(outer_6)(left, right, to, depth, columns);
      NAME(outer_6)(left + 6, right, to + 6L * columns, depth, columns);
      NAME(outer_4)(left + 12, right, to + 12L * columns, depth, columns);
#endif
    }
}

static const struct Lanes NAME(lanes) = {
    {NAME(tile_in_4), NAME(tile_in_6)},     NAME(gradient_in), {NAME(tile_out_4), NAME(tile_out_6)},
    {NAME(kernel_in_4), NAME(kernel_in_6)}, NAME(taps_out),    NAME(product),
    NAME(outer)};

#undef vec
#undef PER
#undef BOTH
#undef BLOCK
#undef LANES
#undef NAME
#undef TARGET
#undef WIDE
