/* bench.cu - speed of the GPU attention against the ceiling of its instruction and, where PyTorch
 * is there, its fp16 kernels: all in one run.
 *
 *   bench_gpu [--rows N] [--json FILE] [--no-torch]
 *   bench_gpu --steps [--rows N]      the ladder of gpu/steps beside the kernel, on one case
 *
 *   kernel      ifa_cuda_attend_packed, on operands quantized and packed already. They stand for
 *               standard normal tensors (INT8 per token,
 *               3.5 standard deviations to 127); "x3": logits three times as wide, so that units
 *                 move
 *   packing too ifa_cuda_attend, on operands quantized already in a caller's plain layout
 *   from f16    ifa_cuda_attention, quantization included, and its share of the kernel's rate
 *   FA2, cuDNN  PyTorch's fp16 attention on the same shapes, timed in the same way
 *     (tools/bench_torch_gpu.py)
 *
 * Before a figure is printed, N rows (default 8) of its case are computed by the oracle and
 * compared bit by bit. Times are event times, each the median of 9 groups of 4 calls (in a group
 * the host's part overlaps). TOPS count 4 B H N^2 D operations, half of it when causal; GB/s the
 * operands, scales and outputs, each once. Exit codes: 0, 1 a difference, 2 usage or a file that
 * cannot be written, 3 no device. */
#include "gpu/bench/bench.h"

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <string>

extern "C" {
#include "common/operand.h"
#include "common/problem.h"
#include "common/random.h"
}
#include "gpu/steps/steps.h"
#include "ifa_cuda.h"

enum { GROUPS = 9, CALLS = 4 };

static void require(ifa_status status, const ifa_message &why) {
  if (status == IFA_OK) return;
  fprintf(stderr, "bench_gpu: %s: %s\n", ifa_status_name(status), why.text);
  exit(1);
}

/* ---- cases ---- */

struct Shape {
  int d, b, h, n, causal;
};

static const Shape shapes[] = {{128, 1, 16, 16384, 0},
                               {128, 1, 16, 16384, 1},
                               {64, 1, 32, 16384, 0},
                               {128, 16, 16, 1024, 0},
                               {128, 4, 16, 4096, 0}};
static const Shape end_to_end = {128, 4, 16, 4096, 0}; /* one of them */
static const Shape of_steps = {128, 1, 16, 4096, 0};

static bool same(const Shape &a, const Shape &b) {
  return a.d == b.d && a.b == b.b && a.h == b.h && a.n == b.n && a.causal == b.causal;
}

static std::string name_of(const Shape &s) {
  char text[64];
  snprintf(text, sizeof text, "D%d b%d h%d n%d%s", s.d, s.b, s.h, s.n, s.causal ? " causal" : "");
  return text;
}

static double operations_of(const Shape &s) {
  return 4.0 * s.b * s.h * (double)s.n * s.n * s.d / (s.causal ? 2 : 1);
}
static int64_t rows_of(const Shape &s) { return (int64_t)s.b * s.h * s.n; }

/* What is measured: a kernel, by its name for IFA_CUDA_KERNEL, with a kv_tile. */
struct Way {
  const char *kernel;
  int kv_tile;
};
static const Way ways[] = {{"sm90", 128}, {"sm90", 64}, {"sm80", 64}};

/* false: this build or device does not have the kernel. */
static bool take(const Way &way) {
  setenv("IFA_CUDA_KERNEL", way.kernel, 1);
  return ifa_cuda_available(NULL) == IFA_OK;
}

/* The settings of ifa_cuda_attention_fast and _accurate. */
static ifa_problem problem_of(const Shape &s, const Way &way, bool per_token) {
  ifa_problem p = ifa_cuda_attention_fast(s.b, s.h, s.h, s.n, s.n, s.d).problem;
  p.causal = s.causal;
  p.kv_tile = way.kv_tile;
  p.v_scale = per_token ? IFA_SCALE_TOKEN : IFA_SCALE_CHANNEL;
  return p;
}

/* ---- results ---- */

/* One line of the table. problem: `key=value` words, as ifa_problem_parse reads them (PyTorch's
 * have only the shape). */
struct Result {
  std::string what, problem;
  double ms, tops, gb_per_s;
  double of_kernel; /* share of the rate of the kernel alone; 0: not that kind of line */
};

struct Run {
  int rows = 8;
  bool steps = false;
  std::string device, driver, toolkit, torch; /* torch: its version, or empty */
  double ceiling_tops = 0, copy_gb_per_s = 0;
  std::vector<Result> results;
  bool wrong = false;
};

static std::string problem_text(const Shape &s, const Way *way, const char *v_scale) {
  char text[160];
  snprintf(text, sizeof text, "b=%d hq=%d hkv=%d nq=%d nk=%d d=%d%s%s%s%s%s out=f16", s.b, s.h, s.h,
           s.n, s.n, s.d, v_scale ? " vscale=" : "", v_scale ? v_scale : "",
           s.causal ? " causal=1" : "", v_scale ? " tau=4" : "",
           way && way->kv_tile != 64 ? " tile=128" : "");
  return text;
}

/* way and v_scale NULL: another library's kernel. */
static void add(Run *run, const Shape &s, const Way *way, const std::string &what,
                const char *v_scale, double ms, double bytes, double kernel_ms) {
  const double tops = operations_of(s) / ms * 1e-9;
  const std::string name = way ? std::string(way->kernel) + " " + what : what;
  Result r = {name,
              problem_text(s, way, v_scale),
              ms,
              tops,
              bytes / ms * 1e-6,
              kernel_ms > 0 ? kernel_ms / ms : 0};
  run->results.push_back(r);
  printf("%-26s %-8s %4s %-32s %9.3f %7.0f %7.1f%% %7.0f", name_of(s).c_str(),
         v_scale ? v_scale : "", way ? way->kv_tile == 64 ? "64" : "128" : "", name.c_str(), ms,
         tops, 100 * tops / run->ceiling_tops, r.gb_per_s);
  if (r.of_kernel > 0) printf("   %.1f%% of the kernel alone", 100 * r.of_kernel);
  printf("\n");
}

static void report_wrong(Run *run, const Shape &s, const char *what, int64_t differing) {
  printf("%-26s %s WRONG: %lld values differ\n", name_of(s).c_str(), what, (long long)differing);
  run->wrong = true;
}

/* Row numbers below `rows`, ascending, without repeats. */
static std::vector<int64_t> choose_rows(int wanted, int64_t rows) {
  std::vector<int64_t> chosen;
  for (int i = 0; i < wanted; i++)
    chosen.push_back((int64_t)(ifa_random_bits(5, 1, (uint64_t)i) % (uint64_t)rows));
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  return chosen;
}

template <typename T> static std::vector<T> fetch(const void *from, int64_t count) {
  std::vector<T> values((size_t)count);
  must(cudaMemcpy(values.data(), from, (size_t)count * sizeof(T), cudaMemcpyDeviceToHost),
       "copy back");
  return values;
}

/* Values of the chosen rows (dense, f16) that differ from the oracle's. */
static int64_t differing(const ifa_problem &p, ifa_inputs in, const std::vector<uint16_t> &got,
                         int rows) {
  std::vector<int64_t> chosen = choose_rows(rows, p.batch * p.q_heads * p.nq);
  std::vector<uint16_t> expected(got.size());
  in.rows = chosen.data(), in.row_count = (int64_t)chosen.size();
  ifa_outputs out = {};
  out.o = expected.data();
  ifa_message why = {};
  require(ifa_run("scalar", &p, &in, &out, &why), why);
  int64_t wrong = 0;
  for (int64_t row : chosen)
    for (int64_t d = 0; d < p.head_dim; d++)
      wrong += got[(size_t)(row * p.head_dim + d)] != expected[(size_t)(row * p.head_dim + d)];
  return wrong;
}

/* ---- operands ---- */

/* Eight uniforms: nearly normal, standard deviation 1. */
static __device__ float nearly_normal(uint64_t i, uint32_t seed) {
  uint64_t x = i * 0x9e3779b97f4a7c15u + seed;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  x ^= x >> 31;
  float sum = 0;
  for (int b = 0; b < 8; b++) sum += (float)(x >> (8 * b) & 255) - 127.5f;
  return sum * (1.0f / 209.0f);
}

static __global__ void draw_quantized(int8_t *to, float *scale, int64_t rows, int dim,
                                      uint32_t seed, float factor) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= rows * dim) return;
  to[i] = (int8_t)min(max((int)rintf(nearly_normal((uint64_t)i, seed) * 36.3f), -127), 127);
  if (i % dim == 0)
    scale[i / dim] =
        factor / 36.3f *
        (1.0f + 0.05f * fminf(fmaxf(nearly_normal((uint64_t)i, seed + 1000), -2.0f), 2.0f));
}

static __global__ void draw_floats(uint16_t *to, int64_t count, uint32_t seed) {
  int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) to[i] = ifa_f32_to_f16(nearly_normal((uint64_t)i, seed));
}

static unsigned blocks_of(int64_t threads) { return (unsigned)((threads + 255) / 256); }

template <typename T> static T *allocate(int64_t count) {
  void *block = NULL;
  must(cudaMalloc(&block, (size_t)count * sizeof(T)), "cudaMalloc");
  return (T *)block;
}

/* ---- the kernel alone ---- */

struct Quantized {
  int8_t *q, *k, *v;
  /* v_scale: as many as tokens, which suffices for channels too */
  float *q_scale, *k_scale, *v_scale;
  uint16_t *o;
  uint8_t *workspace;
  size_t workspace_bytes;
};

static Quantized make_quantized(const Shape &s, const ifa_problem &p, float spread) {
  Quantized x = {};
  int64_t rows = rows_of(s), elements = rows * s.d;
  int8_t **tensors[] = {&x.q, &x.k, &x.v};
  float **scales[] = {&x.q_scale, &x.k_scale, &x.v_scale};
  for (int i = 0; i < 3; i++) {
    *tensors[i] = allocate<int8_t>(elements);
    *scales[i] = allocate<float>(rows);
    draw_quantized<<<blocks_of(elements), 256>>>(*tensors[i], *scales[i], rows, s.d,
                                                 77 + (uint32_t)i, i == 0 ? spread : 1.0f);
  }
  must(cudaGetLastError(), "operands");
  x.o = allocate<uint16_t>(elements);
  must(cudaMemset(x.o, 0xff, (size_t)elements * 2), "output");
  ifa_message why = {};
  require(ifa_cuda_workspace_bytes(&p, &x.workspace_bytes, &why), why);
  x.workspace = allocate<uint8_t>((int64_t)x.workspace_bytes);
  return x;
}

static void release(Quantized *x) {
  void *list[] = {x->q, x->k, x->v, x->q_scale, x->k_scale, x->v_scale, x->o, x->workspace};
  for (void *block : list) must(cudaFree(block), "cudaFree");
}

/* Milliseconds a call; 0 if it is wrong. */
static double bench_kernel(Run *run, const Shape &s, const Way &way, bool per_token, float spread) {
  ifa_problem p = problem_of(s, way, per_token);
  Quantized x = make_quantized(s, p, spread);
  int64_t rows = rows_of(s), elements = rows * s.d;
  ifa_inputs in = {};
  in.q = x.q;
  in.k = x.k;
  in.v = x.v;
  in.q_scale = x.q_scale;
  in.k_scale = x.k_scale;
  in.v_scale = x.v_scale;
  ifa_outputs out = {};
  out.o = x.o;
  ifa_message why = {};
  auto pack = [&] {
    require(ifa_cuda_pack(&p, &in, x.workspace, x.workspace_bytes, NULL, &why), why);
  };
  auto attend_packed = [&] {
    require(ifa_cuda_attend_packed(&p, &in, &out, x.workspace, x.workspace_bytes, NULL, &why), why);
  };
  auto attend = [&] {
    require(ifa_cuda_attend(&p, &in, &out, x.workspace, x.workspace_bytes, NULL, &why), why);
  };
  std::vector<int8_t> q = fetch<int8_t>(x.q, elements), k = fetch<int8_t>(x.k, elements),
                      v = fetch<int8_t>(x.v, elements);
  std::vector<float> q_scale = fetch<float>(x.q_scale, rows),
                     k_scale = fetch<float>(x.k_scale, rows),
                     v_scale = fetch<float>(x.v_scale, rows);
  ifa_inputs host = {};
  host.q = q.data();
  host.k = k.data();
  host.v = v.data();
  host.q_scale = q_scale.data();
  host.k_scale = k_scale.data();
  host.v_scale = v_scale.data();
  /* Checks what `call` has written over other bytes, then times it. */
  auto measure = [&](const Way *by, const char *what, auto call) {
    must(cudaMemset(x.o, 0xff, (size_t)elements * 2), "output");
    call();
    must(cudaDeviceSynchronize(), "attention");
    if (int64_t wrong = differing(p, host, fetch<uint16_t>(x.o, elements), run->rows))
      return report_wrong(run, s, what, wrong), 0.0;
    double ms = median_ms(1, GROUPS,
                          [&] {
                            for (int i = 0; i < CALLS; i++) call();
                          }) /
                CALLS;
    double scales = 2.0 * rows + ifa_scale_count(p.v_scale, s.b, s.h, s.n, s.d, 0);
    add(run, s, by, what, per_token ? "token" : "channel", ms, 5.0 * elements + 4 * scales, 0);
    return ms;
  };
  for (int step = 0; run->steps && step < IFA_GPU_STEPS; step++)
    measure(NULL, ifa_gpu_steps[step]->name,
            [&] { require(ifa_gpu_step_attend(step, &p, &in, &out, NULL, &why), why); });
  pack();
  const double ms = measure(&way, spread == 1.0f ? "kernel" : "kernel x3", attend_packed);
  if (spread == 1.0f) measure(&way, "packing too", attend);
  release(&x);
  return ms;
}

/* ---- from f16 ---- */

/* One (batch, head) matrix: quantizers and oracle on the CPU against the device's output. Scales
 * are shared within a matrix at most. */
static int64_t matrix_differing(const ifa_cuda_attention_args &a, int64_t matrix, int rows) {
  int64_t n = a.problem.nq, d = a.problem.head_dim, at = matrix * n * d;
  ifa_problem p = a.problem;
  p.batch = p.q_heads = p.kv_heads = 1;
  const void *const from[] = {a.q, a.k, a.v};
  const ifa_granularity scales[] = {p.q_scale, p.k_scale, p.v_scale};
  std::vector<int8_t> integers[3];
  std::vector<float> scale[3];
  for (int i = 0; i < 3; i++) {
    std::vector<uint16_t> floats = fetch<uint16_t>((const uint16_t *)from[i] + at, n * d);
    integers[i].resize((size_t)(n * d));
    scale[i].resize((size_t)std::max(n, d));
    ifa_quantize_args c = {};
    c.src = floats.data(), c.src_type = a.type;
    c.batch = c.heads = 1;
    c.tokens = n;
    c.head_dim = d;
    c.dst = integers[i].data();
    c.dst_type = IFA_I8;
    c.granularity = scales[i];
    c.subtract_mean = i == 1 ? a.subtract_k_mean : 0;
    c.scale = scale[i].data();
    ifa_message why = {};
    require(ifa_quantize(&c, &why), why);
  }
  ifa_inputs in = {};
  in.q = integers[0].data();
  in.k = integers[1].data();
  in.v = integers[2].data();
  in.q_scale = scale[0].data();
  in.k_scale = scale[1].data();
  in.v_scale = scale[2].data();
  return differing(p, in, fetch<uint16_t>((const uint16_t *)a.o + at, n * d), rows);
}

static void bench_from_floats(Run *run, const Shape &s, const Way &way, bool per_token, int k_mean,
                              double kernel_ms) {
  ifa_cuda_attention_args a = ifa_cuda_attention_fast(s.b, s.h, s.h, s.n, s.n, s.d);
  a.problem = problem_of(s, way, per_token);
  a.subtract_k_mean = k_mean;
  int64_t elements = rows_of(s) * s.d;
  uint16_t *q = allocate<uint16_t>(elements), *k = allocate<uint16_t>(elements),
           *v = allocate<uint16_t>(elements), *o = allocate<uint16_t>(elements);
  uint16_t *tensors[] = {q, k, v};
  for (uint32_t i = 0; i < 3; i++)
    draw_floats<<<blocks_of(elements), 256>>>(tensors[i], elements, 177 + i);
  must(cudaGetLastError(), "operands");
  must(cudaMemset(o, 0xff, (size_t)elements * 2), "output");
  a.q = q;
  a.k = k;
  a.v = v;
  a.o = o;
  size_t bytes = 0;
  ifa_message why = {};
  require(ifa_cuda_attention_workspace_bytes(&a, &bytes, &why), why);
  uint8_t *workspace = allocate<uint8_t>((int64_t)bytes);
  auto call = [&] { require(ifa_cuda_attention(&a, workspace, bytes, NULL, &why), why); };
  call();
  must(cudaDeviceSynchronize(), "attention");
  const char *what = k_mean ? "from f16, K less its mean" : "from f16";
  if (int64_t wrong = matrix_differing(a, s.b * s.h - 1, run->rows))
    report_wrong(run, s, what, wrong);
  else
    add(run, s, &way, what, per_token ? "token" : "channel",
        median_ms(1, GROUPS,
                  [&] {
                    for (int i = 0; i < CALLS; i++) call();
                  }) /
            CALLS,
        8.0 * elements, kernel_ms);
  void *list[] = {q, k, v, o, workspace};
  for (void *block : list) must(cudaFree(block), "cudaFree");
}

/* ---- PyTorch ---- */

/* Starts the script on all shapes. It prints "pytorch VERSION", then "SHAPE flash|cudnn MS"; where
 * it cannot, one line that says why. */
static const char *const FLASH = "FA2 fp16, PyTorch", *const CUDNN = "cuDNN fp16, PyTorch",
                         *const FP8 = "cuDNN fp8, its frontend";

static void add_peer(Run *run, const Shape &s, const std::string &backend, double ms) {
  const bool fp8 = backend == "fp8";
  add(run, s, NULL,
      fp8                  ? FP8
      : backend == "flash" ? FLASH
                           : CUDNN,
      NULL, ms, (fp8 ? 4.0 : 8.0) * rows_of(s) * s.d, 0);
}

static void bench_torch(Run *run) {
  const char *built = IFA_TOOLS "/bench_torch_gpu.py", *here = "tools/bench_torch_gpu.py",
             *script = access(here, R_OK) == 0 ? here : built;
  std::string command = std::string("timeout 300 python3 '") + script + "'";
  for (const Shape &s : shapes) {
    char text[64];
    snprintf(text, sizeof text, " %d,%d,%d,%d,%d", s.b, s.h, s.n, s.d, s.causal);
    command += text;
  }
  fflush(stdout);
  FILE *pipe = popen((command + " 2>/dev/null").c_str(), "r");
  char line[256], reason[256] = "no answer from bench_torch_gpu.py";
  while (pipe && fgets(line, sizeof line, pipe)) {
    char version[64], backend[16];
    int shape = -1;
    double ms = 0;
    line[strcspn(line, "\n")] = '\0';
    if (sscanf(line, "pytorch %63s", version) == 1) run->torch = version;
    else if (sscanf(line, "%d %15s %lf", &shape, backend, &ms) == 3 && shape >= 0 &&
             shape < (int)(sizeof shapes / sizeof shapes[0]) && ms > 0)
      add_peer(run, shapes[shape], backend, ms);
    else snprintf(reason, sizeof reason, "%s", line);
  }
  if (pipe) pclose(pipe);
  if (run->torch.empty()) printf("PyTorch: not available (%s)\n", reason);
}

/* ---- against the peers ---- */

/* TOPS of a line; 0 if there is none. */
static double tops_of(const Run &run, const std::string &what, const std::string &problem) {
  for (const Result &r : run.results)
    if (r.what == what && r.problem == problem) return r.tops;
  return 0;
}

static void print_ratios(const Run &run) {
  printf("\n%-26s %-8s %-10s %7s %16s %16s %16s\n", "kernel alone", "V scale", "", "TOPS",
         "of cuDNN fp8", "of cuDNN fp16", "of FA2 fp16");
  for (const Shape &s : shapes)
    for (const char *v_scale : {"channel", "token"})
      for (const Way &way : ways) {
        const double tops =
            tops_of(run, std::string(way.kernel) + " kernel", problem_text(s, &way, v_scale));
        if (tops == 0) continue;
        printf("%-26s %-8s %s, %-4d %7.0f", name_of(s).c_str(), v_scale, way.kernel, way.kv_tile,
               tops);
        for (const char *peer : {FP8, CUDNN, FLASH}) {
          const double other = tops_of(run, peer, problem_text(s, NULL, NULL));
          if (other > 0) printf(" %7.0f x %6.3f", other, tops / other);
          else printf(" %16s", "-");
        }
        printf("\n");
      }
}

/* ---- what it ran on ---- */

static std::string driver_version() {
  char text[128] = "";
  FILE *pipe =
      popen("nvidia-smi --query-gpu=driver_version --format=csv,noheader -i 0 2>/dev/null", "r");
  if (pipe) {
    if (!fgets(text, sizeof text, pipe)) text[0] = '\0';
    pclose(pipe);
  }
  text[strcspn(text, "\n")] = '\0';
  if (text[0] >= '0' && text[0] <= '9') return text;
  int version = 0;
  must(cudaDriverGetVersion(&version), "driver");
  snprintf(text, sizeof text, "of CUDA %d.%d", version / 1000, version % 1000 / 10);
  return text;
}

static void describe(Run *run) {
  cudaDeviceProp device;
  int number = 0;
  char text[64];
  must(cudaGetDevice(&number), "device");
  must(cudaGetDeviceProperties(&device, number), "device");
  snprintf(text, sizeof text, "CUDA %d.%d.%d", __CUDACC_VER_MAJOR__, __CUDACC_VER_MINOR__,
           __CUDACC_VER_BUILD__);
  run->device = device.name;
  run->driver = driver_version();
  run->toolkit = text;
}

/* ---- JSON ---- */

static std::string quoted(const std::string &text) {
  std::string to = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') to += '\\';
    to += (unsigned char)c < ' ' ? '?' : c;
  }
  return to + "\"";
}

/* Whole or not at all. */
static bool write_json(const Run &run, const char *path) {
  std::string unfinished = std::string(path) + ".tmp";
  FILE *file = fopen(unfinished.c_str(), "w");
  if (!file) return perror(unfinished.c_str()), false;
  fprintf(file, "{\n  \"program\": \"bench_gpu\",\n  \"contract\": %d,\n  \"gpu_source\": %s,\n",
          IFA_CONTRACT_VERSION, quoted(IFA_GPU_SOURCE).c_str());
  fprintf(file, "  \"device\": %s,\n  \"driver\": %s,\n  \"toolkit\": %s,\n",
          quoted(run.device).c_str(), quoted(run.driver).c_str(), quoted(run.toolkit).c_str());
  fprintf(file,
          "  \"settings\": \"median of %d groups of %d calls by events, f16 output, %d rows of "
          "each case checked first\",\n",
          GROUPS, CALLS, run.rows);
  fprintf(file, "  \"ceiling_tops\": %.2f,\n  \"copy_gb_per_s\": %.1f,\n", run.ceiling_tops,
          run.copy_gb_per_s);
  fprintf(file, "  \"pytorch\": %s,\n  \"results\": [",
          run.torch.empty() ? "null" : quoted(run.torch).c_str());
  for (size_t i = 0; i < run.results.size(); i++) {
    const Result &r = run.results[i];
    fprintf(file,
            "%s\n    {\"what\": %s, \"problem\": %s, \"ms\": %.5f, \"tops\": %.3f, \"of_ceiling\": "
            "%.5f, \"gb_per_s\": %.2f",
            i ? "," : "", quoted(r.what).c_str(), quoted(r.problem).c_str(), r.ms, r.tops,
            r.tops / run.ceiling_tops, r.gb_per_s);
    if (r.of_kernel > 0) fprintf(file, ", \"of_kernel\": %.5f", r.of_kernel);
    fprintf(file, "}");
  }
  fprintf(file, "\n  ]\n}\n");
  bool good = !ferror(file);
  good = fclose(file) == 0 && good;
  good = good && rename(unfinished.c_str(), path) == 0;
  if (!good) perror(path), remove(unfinished.c_str());
  return good;
}

static int usage() {
  fprintf(stderr, "usage: bench_gpu [--rows N] [--json FILE] [--no-torch]\n"
                  "       bench_gpu --steps [--rows N]\n");
  return 2;
}

int main(int argc, char **argv) {
  Run run;
  const char *json = NULL;
  bool torch = true;
  for (int i = 1; i < argc; i++) {
    if (i + 1 < argc && strcmp(argv[i], "--rows") == 0 && atoi(argv[i + 1]) > 0)
      run.rows = atoi(argv[++i]);
    else if (i + 1 < argc && strcmp(argv[i], "--json") == 0) json = argv[++i];
    else if (strcmp(argv[i], "--no-torch") == 0) torch = false;
    else if (strcmp(argv[i], "--steps") == 0) run.steps = true;
    else return usage();
  }
  if (run.steps && json) return usage(); /* a file of figures is of the whole table */
  setvbuf(stdout, NULL, _IOLBF, 0);
  ifa_message why = {};
  if (ifa_cuda_available(&why) != IFA_OK) return printf("not available: %s\n", why.text), 3;
  describe(&run);
  run.ceiling_tops = measure_mma_tops();
  run.copy_gb_per_s = measure_copy_gb_per_s();
  printf("%s, driver %s, %s; gpu source %s\n", run.device.c_str(), run.driver.c_str(),
         run.toolkit.c_str(), IFA_GPU_SOURCE);
  printf("mma.sync u8*s8 ceiling %.0f TOPS, copy within memory %.0f GB/s; median of %d groups of "
         "%d calls by events, f16 output, %d rows of each case checked first\n",
         run.ceiling_tops, run.copy_gb_per_s, GROUPS, CALLS, run.rows);
  printf("a product takes %.1f clocks of a warp scheduler; with four other instructions after it "
         "%.1f\n",
         measure_product_clocks(0), measure_product_clocks(4));
  printf("%-26s %-8s %4s %-32s %9s %7s %8s %7s\n", "case", "V scale", "tile", "what", "ms", "TOPS",
         "ceiling", "GB/s");
  for (const Way &way : ways) {
    if (!take(way)) continue;
    if (run.steps && way.kv_tile != 64) continue; /* the tile that the steps have */
    if (run.steps) {
      bench_kernel(&run, of_steps, way, false, 1.0f);
      return run.wrong ? 1 : 0;
    }
    double alone[2] = {0, 0}; /* of the case that is measured end to end, by V scale */
    for (const Shape &s : shapes)
      for (int per_token = 0; per_token < 2; per_token++) {
        double ms = bench_kernel(&run, s, way, per_token, 1.0f);
        if (same(s, end_to_end)) alone[per_token] = ms;
        if (s.d == 128 && s.n >= 16384 && !s.causal) bench_kernel(&run, s, way, per_token, 3.0f);
      }
    for (int per_token = 0; per_token < 2; per_token++)
      for (int k_mean = 0; k_mean < 2; k_mean++)
        if (alone[per_token] > 0)
          bench_from_floats(&run, end_to_end, way, per_token, k_mean, alone[per_token]);
  }
  if (torch) bench_torch(&run);
  print_ratios(run);
  if (run.wrong) return 1; /* and no file of figures */
  return json && !write_json(run, json) ? 2 : 0;
}
