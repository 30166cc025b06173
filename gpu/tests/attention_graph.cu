/* attention_graph.cu - captured into a CUDA graph, replayed with other contents of the operands; a
 * capture runs nothing. */
#include "gpu/tests/floats.h"

/* Captures what `launch` does; NULL (and a counted failure) if it may not be captured. */
static cudaGraphExec_t captured(cudaStream_t stream, const char *what,
                                const std::function<ifa_status(ifa_message *)> &launch) {
  cudaGraph_t graph = NULL;
  cudaGraphExec_t exec = NULL;
  ifa_message why = {};
  /* forbids unsafe calls, the default stream among them */
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin capture");
  ifa_status status = launch(&why);
  cudaError_t error = cudaStreamEndCapture(stream, &graph);
  if (error != cudaSuccess) (void)cudaGetLastError();
  if (check(status == IFA_OK && error == cudaSuccess, "capture: %s %s; %s: %s",
            ifa_status_name(status), why.text, cudaGetErrorString(error), what))
    must(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  if (graph) must(cudaGraphDestroy(graph), "destroy");
  return exec;
}

static void graph_of_attend(const ifa_problem &p, cudaStream_t stream) {
  Tensors contents[2] = {draw_tensors(p, 11), draw_tensors(p, 12)};
  Output expected[2] = {expected_of(p, contents[0].inputs()), expected_of(p, contents[1].inputs())};
  check(!(expected[0] == expected[1]), "both contents give the same: %s", text_of(p).c_str());
  Device d(contents[0], stream);
  cudaGraphExec_t exec =
      captured(stream, text_of(p).c_str(), [&](ifa_message *why) { return d.attend(stream, why); });
  if (!exec) return;
  check(d.out.fetch(stream) == poisoned_output(p), "a capture wrote something: %s",
        text_of(p).c_str());
  for (int i : {0, 1, 1, 0}) {
    d.load(contents[i], stream);
    d.out.poison(stream);
    must(cudaGraphLaunch(exec, stream), "launch graph");
    check(d.out.fetch(stream) == expected[i], "a replay with contents %d differs: %s", i,
          text_of(p).c_str());
  }
  must(cudaGraphExecDestroy(exec), "destroy");
}

static void graph_of_floats(int number, ifa_granularity v_scale, cudaStream_t stream) {
  Floats contents[2] = {
      floats_case(number, IFA_F16, IFA_I8, IFA_I8, IFA_SCALE_TOKEN, IFA_SCALE_TOKEN, v_scale), {}};
  contents[1] = contents[0];
  draw(&contents[1], 9999);
  Output expected[2] = {expected_of(contents[0]), expected_of(contents[1])};
  FloatsDevice d(contents[0], stream);
  cudaGraphExec_t exec = captured(stream, text_of(contents[0]).c_str(),
                                  [&](ifa_message *why) { return d.call(stream, why); });
  if (!exec) return;
  check(d.out.fetch(stream) == poisoned_output(d.out.p), "a capture wrote something: %s",
        text_of(contents[0]).c_str());
  for (int i : {0, 1, 1, 0}) {
    d.load(contents[i], stream);
    d.out.poison(stream);
    must(cudaGraphLaunch(exec, stream), "launch graph");
    check(d.out.fetch(stream) == expected[i], "a replay with contents %d differs: %s", i,
          text_of(contents[0]).c_str());
  }
  must(cudaGraphExecDestroy(exec), "destroy");
}

void run_graph() {
  cudaStream_t stream = new_stream();
  for (const char *text : problems) graph_of_attend(problem_of(text), stream);
  for (int number = 20; number < 32; number++)
    for (ifa_granularity v_scale : {IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN, IFA_SCALE_TOKEN_CHANNEL})
      graph_of_floats(number, v_scale, stream);
  must(cudaStreamDestroy(stream), "destroy");
}
