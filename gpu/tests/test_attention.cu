/* test_attention.cu - what the GPU attention promises beyond the suites of `validate`, against the
 * CPU bit for bit.
 *
 *   test_gpu_attention [PART...]
 *
 *   refusals    every bad input: a status, a message, no CUDA error, no byte written
 *   graph       captured into a CUDA graph, replayed with other contents of the operands; a capture
 *               runs nothing
 *   repeat      the same call again and again, on dirty workspaces: the same bits
 *   time        ifa_time_on_device, for `validate bench`: a time for each run, and the right output
 *               behind them
 *   position    the same rows in other batches, orders, head counts and lengths: the same bits
 *               (contract: a row depends on what it sees alone)
 *   floats      ifa_cuda_attention = ifa_quantize + ifa_run, for every type, format, scale choice
 *               and layout
 *   load        while other streams keep the device busy; in the order of its stream; from several
 *               host threads at once
 *   devices     on every device at once, if there are two
 *
 * Exit status: 0 all passed, 1 a failure, 3 no device (then only the refusals that need none are
 * checked). */
#include "gpu/tests/attention.h"

/* ---- repeat ---- */

static void run_repeat() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 21);
    Output expected = expected_of(p, t.inputs());
    Device d(t, stream);
    for (int i = 0; i < 20; i++) {
      ifa_message why = {};
      d.out.poison(stream);
      must(cudaMemsetAsync(d.workspace.data, i * 37 & 255, d.workspace_bytes, stream), "memset");
      ifa_status status = d.attend(stream, &why);
      check(status == IFA_OK && d.out.fetch(stream) == expected && d.guard_whole(stream),
            "run %d differs or fails (%s): %s", i, why.text, text);
    }
  }
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- packed ---- */

/* K and V packed once, then queries one after the other, while what was packed from is gone. */
static void run_packed() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 25);
    Device d(t, stream);
    ifa_message why = {};
    ifa_inputs in = d.inputs(), keys = in;
    keys.q = NULL, keys.q_scale = NULL;
    ifa_status status = ifa_cuda_pack(&p, &keys, d.workspace.data, d.workspace_bytes, stream, &why);
    check(status == IFA_OK, "pack: %s %s: %s", ifa_status_name(status), why.text, text);
    for (const Block *gone : {&d.k, &d.v, &d.k_scale})
      must(cudaMemsetAsync(gone->data, POISON, gone->bytes, stream), "memset");
    in.k = in.v = NULL, in.k_scale = NULL;
    for (uint64_t seed = 25; seed < 30; seed++) {
      Tensors other = draw_tensors(p, seed);
      t.q = other.q, t.q_scale = other.q_scale;
      send(d.q, t.q, stream), send(d.q_scale, t.q_scale, stream);
      d.out.poison(stream);
      ifa_outputs out = d.out.outputs();
      status =
          ifa_cuda_attend_packed(&p, &in, &out, d.workspace.data, d.workspace_bytes, stream, &why);
      check(status == IFA_OK && d.out.fetch(stream) == expected_of(p, t.inputs()) &&
                d.guard_whole(stream),
            "packed, q of seed %d: %s %s: %s", (int)seed,
            status == IFA_OK ? "differs" : ifa_status_name(status), why.text, text);
    }
  }
  must(cudaStreamDestroy(stream), "destroy");
}

/* ---- time ---- */

static void run_time() {
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 23);
    ifa_inputs in = t.inputs();
    Output got = poisoned_output(p);
    ifa_outputs out = {};
    out.o = got.o.data(), out.lse = p.lse ? got.lse.data() : NULL;
    double seconds[4] = {-1, -1, -1, -1};
    ifa_message why = {};
    ifa_status status = ifa_time_on_device("cuda-sm80", &p, &in, &out, seconds, 3, &why);
    check(status == IFA_OK && got == expected_of(p, in), "timed: %s %s: %s",
          status == IFA_OK ? "differs" : ifa_status_name(status), why.text, text);
    check(seconds[3] == -1 &&
              std::all_of(seconds, seconds + 3, [](double s) { return s > 1e-6 && s < 1; }),
          "times %g %g %g %g: %s", seconds[0], seconds[1], seconds[2], seconds[3], text);
  }
}

/* ---- main ---- */

static const struct part {
  const char *name;
  void (*run)();
  int devices; /* needed */
} parts[] = {{"refusals", run_refusals, 1}, {"graph", run_graph, 1}, {"repeat", run_repeat, 1},
             {"packed", run_packed, 1},     {"time", run_time, 1},   {"position", run_position, 1},
             {"floats", run_floats, 1},     {"load", run_load, 1},   {"devices", run_devices, 2}};

/* No arguments: all parts. */
static bool chosen(const char *name, int count, char **arguments) {
  for (int i = 1; i < count; i++)
    if (strcmp(arguments[i], name) == 0) return true;
  return count == 1;
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  for (int i = 1; i < count; i++)
    if (std::none_of(std::begin(parts), std::end(parts),
                     [&](const part &one) { return strcmp(one.name, arguments[i]) == 0; })) {
      fprintf(stderr,
              "attention: there is no part '%s' (refusals graph repeat packed time position floats "
              "load devices)\n",
              arguments[i]);
      return 2;
    }
  ifa_message why = {};
  if (ifa_cuda_available(&why) != IFA_OK) {
    absent_refusals();
    printf("attention: not available: %s\n", why.text);
    return failed ? 1 : 3;
  }
  int absent = 0, devices = device_count();
  for (const part &one : parts) {
    if (!chosen(one.name, count, arguments)) continue;
    if (devices < one.devices) {
      printf("attention: %-9s not available: %d devices, %d needed\n", one.name, devices,
             one.devices);
      absent++;
      continue;
    }
    int passed_before = passed, failed_before = failed;
    one.run();
    must(cudaDeviceSynchronize(), one.name);
    printf("attention: %-9s %d passed, %d failed\n", one.name, passed - passed_before,
           failed - failed_before);
  }
  printf("attention: %d passed, %d failed, %d parts not available\n", (int)passed, (int)failed,
         absent);
  return failed ? 1 : passed ? 0 : 3;
}
