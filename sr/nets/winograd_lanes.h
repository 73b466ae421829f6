/* What winograd.c compiles once for each instruction set. LANES: floats in a vector; NAME(x): the functions' own names;
   TARGET: their attribute. Channels are multiples of 16, and so of LANES. */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int NAME(mask) __attribute__((vector_size(4 * LANES)));
#define vec NAME(vec)
#define PER 16 / LANES /* vectors in a panel of 16 columns */

TARGET static inline vec NAME(load)(const float *p) { return *(const vec *)p; }
TARGET static inline void NAME(store)(float *p, vec value) { *(vec *)p = value; }

/* ---- one dimension: the six points are 0, 1, -1, 2, -2 and infinity (Lavin and Gray, section 4.3) ---------------- */

TARGET static inline void NAME(input)(const vec d[6], vec t[6]) {
  vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
  t[0] = 4 * d[0] - 5 * d[2] + d[4];
  t[1] = a + b, t[2] = a - b, t[3] = c + e, t[4] = c - e;
  t[5] = 4 * d[1] - 5 * d[3] + d[5];
}

TARGET static inline void NAME(output)(const vec m[6], vec y[4]) {
  vec s = m[1] + m[2], d = m[1] - m[2], p = m[3] + m[4], q = m[3] - m[4];
  y[0] = m[0] + s + p, y[1] = d + 2 * q, y[2] = s + 4 * p, y[3] = d + 8 * q + m[5];
}

TARGET static inline void NAME(kernel)(const vec g[3], vec t[6]) {
  vec s = g[0] + g[2], p = g[0] + 4 * g[2], q = 2 * g[1];
  t[0] = g[0] * (1.f / 4), t[1] = (s + g[1]) * (-1.f / 6), t[2] = (s - g[1]) * (-1.f / 6);
  t[3] = (p + q) * (1.f / 24), t[4] = (p - q) * (1.f / 24), t[5] = g[2];
}

TARGET static inline void NAME(gradient)(const vec g[4], vec t[6]) {
  vec s = g[0] + g[2], o = g[1] + g[3], p = g[0] + 4 * g[2], q = 2 * g[1] + 8 * g[3];
  t[0] = g[0] * (1.f / 4), t[1] = (s + o) * (-1.f / 6), t[2] = (s - o) * (-1.f / 6);
  t[3] = (p + q) * (1.f / 24), t[4] = (p - q) * (1.f / 24), t[5] = g[3];
}

TARGET static inline void NAME(taps)(const vec m[6], vec z[3]) {
  vec s = m[1] + m[2], p = m[3] + m[4];
  z[0] = m[0] + s + p, z[1] = m[1] - m[2] + 2 * (m[3] - m[4]), z[2] = s + 4 * p + m[5];
}

/* Both dimensions: [N][N] vectors -> [M][M], by columns and then by rows. */
#define BOTH(ONE, N, M, FROM, TO)                        \
  vec half_[M][N];                                       \
  for (int j = 0; j < N; j++) {                          \
    vec column_[N], made_[M];                            \
    for (int i = 0; i < N; i++) column_[i] = FROM(i, j); \
    NAME(ONE)(column_, made_);                           \
    for (int i = 0; i < M; i++) half_[i][j] = made_[i];  \
  }                                                      \
  for (int i = 0; i < M; i++) {                          \
    vec made_[M];                                        \
    NAME(ONE)(half_[i], made_);                          \
    for (int j = 0; j < M; j++) TO(i, j, made_[j]);      \
  }

/* ---- two dimensions, LANES channels at a time ------------------------------------------------------------------- */

/* 6 x 6 pixels -> 36 places, `step` apart, and 16 channels `panel` apart. next: the pixels that come after these. */
TARGET static void NAME(tile_in)(const float *const *pixels, const float *const *next, int channels, float *to,
                                 long step, long panel) {
  for (int c = 0; c < channels; c += LANES) {
    if (c % 16 == 0)
      for (int n = 0; n < 36; n++) __builtin_prefetch(next[n] + c);
#define FROM(i, j) NAME(load)(pixels[6 * (i) + (j)] + c)
#define TO(i, j, value) NAME(store)(to + (6 * (i) + (j)) * step + c / 16 * panel + c % 16, value)
    BOTH(input, 6, 6, FROM, TO)
#undef FROM
#undef TO
  }
}

/* 4 x 4 pixels of a gradient -> 36 places */
TARGET static void NAME(gradient_in)(const float *const *pixels, const float *const *next, int channels, float *to,
                                     long step, long panel) {
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

/* 36 places -> rows x cols pixels of the output, at most 4 x 4 */
TARGET static void NAME(tile_out)(const float *from, long step, const struct Output *out, long place, int rows,
                                  int cols) {
  for (int c = 0; c < out->channels; c += LANES) {
    vec bias = out->bias ? NAME(load)(out->bias + c) : (vec){0};
#define FROM(i, j) NAME(load)(from + (6 * (i) + (j)) * step + c)
#define TO(i, j, value)                                                      \
  if (i < rows && j < cols) {                                                \
    long pixel = place + (i) * (long)out->width + (j);                       \
    vec made = out->factor * (value + bias), low = out->slope * made;        \
    NAME(mask) keep = made > 0;                                              \
    made = (vec)(((NAME(mask))made & keep) | ((NAME(mask))low & ~keep));     \
    if (out->add) made += NAME(load)(out->add + pixel * out->add_pixel + c); \
    NAME(store)(out->pixels + pixel * out->pixel + c, made);                 \
  }
    BOTH(output, 6, 4, FROM, TO)
#undef FROM
#undef TO
  }
}

/* 9 taps of 16 columns -> 36 places */
TARGET static void NAME(kernel_in)(const float taps[9][16], float *to, long step) {
  for (int c = 0; c < 16; c += LANES) {
#define FROM(i, j) NAME(load)(taps[3 * (i) + (j)] + c)
#define TO(i, j, value) NAME(store)(to + (6 * (i) + (j)) * step + c, value)
    BOTH(kernel, 3, 6, FROM, TO)
#undef FROM
#undef TO
  }
}

/* 36 places -> 9 taps of 16 columns */
TARGET static void NAME(taps_out)(const float *from, long step, float taps[9][16]) {
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
#define INLINE TARGET static inline __attribute__((always_inline))

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

static const struct Lanes NAME(lanes) = {NAME(tile_in),  NAME(gradient_in), NAME(tile_out), NAME(kernel_in),
                                         NAME(taps_out), NAME(product),     NAME(outer)};

#undef vec
#undef PER
#undef BOTH
#undef BLOCK
#undef LANES
#undef NAME
#undef TARGET
#undef WIDE
