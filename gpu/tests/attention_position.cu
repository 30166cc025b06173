/* attention_position.cu - the same rows in other batches, orders, head counts and lengths: the same
 * bits (contract: a row depends on what it sees alone). */
#include "gpu/tests/attention.h"

/* Where the rows of one sequence (a batch of 1, one key/value head) are put into another problem:
 * batch b, key/value head g; its rows row0 .. row0 + rows - 1 become rows `at` and on. Keys keep
 * their numbers; with masks a row must keep its position too. */
struct Place {
  const char *name;
  int64_t batch, q_heads, kv_heads, nq, nk; /* of the problem around it */
  int64_t b, g, row0, at, rows;
};

static void copy_rows(ifa_type type, int64_t head_dim, const std::vector<uint8_t> &from, int64_t at,
                      int64_t step, std::vector<uint8_t> *to, int64_t to_at, int64_t to_step,
                      int64_t rows) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < head_dim; d++)
      ifa_operand_set(type, to->data(), to_at + i * to_step + d,
                      ifa_operand_get(type, from.data(), at + i * step + d));
}

/* The scales of rows row0 .. of matrix `from_matrix` become those of rows `at` .. of another
 * problem's matrix. By block only where both begin at row 0. */
static void copy_scales(ifa_granularity granularity, int32_t block, int64_t head_dim,
                        const std::vector<float> &from, int64_t from_matrix, int64_t from_tokens,
                        int64_t row0, std::vector<float> *to, int64_t to_matrix, int64_t to_tokens,
                        int64_t at, int64_t rows) {
  int64_t each = ifa_scale_count(granularity, 1, 1, from_tokens, head_dim, block),
          to_each = ifa_scale_count(granularity, 1, 1, to_tokens, head_dim, block);
  bool tokens = granularity == IFA_SCALE_TOKEN || granularity == IFA_SCALE_TOKEN_CHANNEL;
  int64_t count = tokens ? rows : ifa_min64(each, to_each);
  for (int64_t i = 0; i < count; i++)
    (*to)[(size_t)(to_matrix * to_each + (tokens ? at : 0) + i)] =
        from[(size_t)(from_matrix * each + (tokens ? row0 : 0) + i)];
}

static void run_place(const Tensors &ref, const Output &whole, const Place &place,
                      cudaStream_t stream) {
  const ifa_problem &r = ref.p;
  ifa_problem p = r;
  p.batch = place.batch;
  p.q_heads = place.q_heads;
  p.kv_heads = place.kv_heads;
  p.nq = place.nq;
  p.nk = place.nk;
  p.q_stride = p.k_stride = p.v_stride = p.o_stride = ifa_strides{0, 0, 0};
  p = ifa_problem_resolved(&p);
  int64_t d = p.head_dim, group = p.q_heads / p.kv_heads, heads = ifa_min64(group, r.q_heads),
          kv = place.b * p.kv_heads + place.g, keys = ifa_min64(p.nk, r.nk);
  if ((r.causal || r.window) && place.at + p.nk - p.nq != place.row0) {
    printf("attention: place '%s' moves its rows\n", place.name);
    exit(1);
  }
  Tensors t = draw_tensors(p, 31 + (uint64_t)place.nk);
  /* whatever looks at keys that the row does not see loses the row's own */
  for (float &scale : t.v_scale) scale *= 0x1p40f;
  for (int64_t j = 0; j < heads; j++) {
    int64_t head = place.g * group + j;
    copy_rows(p.q_type, d, ref.q, ifa_offset(r.q_stride, 0, j, place.row0), r.q_stride.token, &t.q,
              ifa_offset(p.q_stride, place.b, head, place.at), p.q_stride.token, place.rows);
    copy_scales(p.q_scale, p.q_block, d, ref.q_scale, j, r.nq, place.row0, &t.q_scale,
                place.b * p.q_heads + head, p.nq, place.at, place.rows);
  }
  copy_rows(p.k_type, d, ref.k, 0, r.k_stride.token, &t.k,
            ifa_offset(p.k_stride, place.b, place.g, 0), p.k_stride.token, keys);
  copy_rows(p.v_type, d, ref.v, 0, r.v_stride.token, &t.v,
            ifa_offset(p.v_stride, place.b, place.g, 0), p.v_stride.token, keys);
  copy_scales(p.k_scale, p.k_block, d, ref.k_scale, 0, r.nk, 0, &t.k_scale, kv, p.nk, 0, keys);
  copy_scales(p.v_scale, 1, d, ref.v_scale, 0, r.nk, 0, &t.v_scale, kv, p.nk, 0, keys);
  for (int64_t i = 0; p.v_scale == IFA_SCALE_TOKEN_CHANNEL && i < d; i++)
    t.v_channel_scale[(size_t)(kv * d + i)] = ref.v_channel_scale[(size_t)i];

  Device device(t, stream);
  ifa_message why = {};
  ifa_status status = device.attend(stream, &why);
  Output got = device.out.fetch(stream);
  size_t row_bytes = (size_t)d * ifa_type_bytes(p.out_type);
  int64_t differing = 0;
  for (int64_t j = 0; j < heads; j++)
    for (int64_t i = 0; i < place.rows; i++) {
      /* dense on both sides */
      int64_t from = j * r.nq + place.row0 + i,
              to = (place.b * p.q_heads + place.g * group + j) * p.nq + place.at + i;
      differing +=
          memcmp(&whole.o[(size_t)from * row_bytes], &got.o[(size_t)to * row_bytes], row_bytes) !=
              0 ||
          (p.lse && memcmp(&whole.lse[(size_t)from], &got.lse[(size_t)to], sizeof(float)) != 0);
    }
  check(status == IFA_OK && differing == 0,
        "%s: %" PRId64 " of %" PRId64 " rows differ (%s) from those of %s in %s", place.name,
        differing, heads * place.rows, why.text, text_of(r).c_str(), text_of(p).c_str());
  check(got == expected_of(p, t.inputs()), "%s: differs from the CPU: %s", place.name,
        text_of(p).c_str());
}

void run_position() {
  /* Sequences of 2 query heads, 1 key/value head, 200 tokens. */
  static const char *const causal[] = {
      "hq=2 nq=200 nk=200 d=128 causal=1 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token causal=1 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token_channel causal=1 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 vscale=token causal=1 split=128 tau=2 out=f16",
      "hq=2 nq=200 nk=200 d=64 causal=1 split=64 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 causal=1 tau=0 lse=1",
      "hq=2 nq=200 nk=200 d=64 vscale=tensor causal=1 window=70 tau=inf out=bf16",
      "hq=2 nq=200 nk=200 d=96 vscale=token causal=1 window=65 tau=0 out=f16",
      "hq=2 nq=200 nk=200 d=40 q=int4 k=int4 v=int4 vscale=token causal=1 out=f16",
      "hq=2 nq=200 nk=200 d=256 kscale=block kblock=64 vscale=token causal=1 tau=4 out=f16",
      "hq=2 nq=200 nk=200 d=32 kscale=tensor qscale=tensor causal=1 tau=4 lse=1",
  };
  static const char *const open[] = {
      "hq=2 nq=200 nk=200 d=128 tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=128 vscale=token tau=4 out=f16 lse=1",
      "hq=2 nq=200 nk=200 d=192 vscale=token split=64 tau=0",
      "hq=2 nq=200 nk=200 d=64 v=int4 vscale=token_channel tau=inf",
  };
  static const Place around[] = {
      /* name                                  B  Hq Hkv  nq   nk  b  g row0 at rows */
      {"last of three batches", 3, 2, 1, 200, 200, 2, 0, 0, 0, 200},
      {"first of two batches", 2, 2, 1, 200, 200, 0, 0, 0, 0, 200},
      {"last of four key/value heads", 1, 8, 4, 200, 200, 0, 3, 0, 0, 200},
      {"a group of four, second batch", 2, 8, 2, 200, 200, 1, 1, 0, 0, 200},
      {"one query head", 1, 1, 1, 200, 200, 0, 0, 0, 0, 200},
  };
  static const Place lengths[] = {
      /* masked: the row's position is kept, what follows is others' */
      {"a longer prefill", 1, 2, 1, 333, 333, 0, 0, 0, 0, 200},
      {"a longer prefill, second batch", 2, 4, 2, 264, 264, 1, 0, 0, 0, 200},
      {"rows from 33 on, more keys", 1, 2, 1, 300, 333, 0, 0, 33, 0, 167},
      {"a chunk of a prefill", 1, 2, 1, 50, 150, 0, 0, 100, 0, 50},
      {"a chunk among batches", 3, 2, 1, 72, 200, 1, 0, 128, 0, 72},
      {"token 0 decoded", 1, 2, 1, 1, 1, 0, 0, 0, 0, 1},
      {"token 63 decoded", 1, 2, 1, 1, 64, 0, 0, 63, 0, 1},
      {"token 64 decoded", 2, 2, 1, 1, 65, 1, 0, 64, 0, 1},
      {"token 100 decoded", 1, 4, 2, 1, 101, 0, 1, 100, 0, 1},
      {"token 127 decoded", 1, 2, 1, 1, 128, 0, 0, 127, 0, 1},
      {"token 199 decoded", 4, 2, 1, 1, 200, 3, 0, 199, 0, 1},
      {"the last three", 1, 2, 1, 3, 200, 0, 0, 197, 0, 3},
  };
  static const Place subsets[] = {
      /* not masked: any rows, in any place */
      {"rows from 37 on, in the middle", 1, 2, 1, 90, 200, 0, 0, 37, 5, 80},
      {"one row", 2, 4, 2, 1, 200, 1, 1, 150, 0, 1},
      {"rows moved down", 1, 2, 1, 300, 200, 0, 0, 0, 100, 200},
  };
  cudaStream_t stream = new_stream();
  auto run = [&](const char *text, bool masked) {
    ifa_problem p = problem_of(text);
    Tensors ref = draw_tensors(p, 30);
    /* behind the first tile units fall as far as headroom lets them */
    for (size_t i = 0; p.k_scale == IFA_SCALE_TOKEN && i < 64; i++) ref.k_scale[i] *= 4.0f;
    Output whole = expected_of(p, ref.inputs());
    agrees(ref, whole, stream, "the sequence alone");
    for (const Place &place : around) run_place(ref, whole, place, stream);
    if (masked)
      for (const Place &place : lengths) run_place(ref, whole, place, stream);
    else
      for (const Place &place : subsets) run_place(ref, whole, place, stream);
  };
  for (const char *text : causal) run(text, true);
  for (const char *text : open) run(text, false);
  must(cudaStreamDestroy(stream), "destroy");
}
