/* attention_floats.cu - ifa_cuda_attention = ifa_quantize + ifa_run, for every type, format, scale
 * choice and layout. */
#include "gpu/tests/floats.h"

void run_floats() {
  cudaStream_t stream = new_stream();
  int number = 0;
  for (ifa_type type : {IFA_F16, IFA_BF16, IFA_F32})
    for (ifa_type qk : {IFA_I8, IFA_I4})
      for (ifa_type v : {IFA_I8, IFA_I4})
        for (ifa_granularity q_scale : {IFA_SCALE_TOKEN, IFA_SCALE_BLOCK, IFA_SCALE_TENSOR})
          for (ifa_granularity k_scale : {IFA_SCALE_TOKEN, IFA_SCALE_BLOCK, IFA_SCALE_TENSOR})
            for (ifa_granularity v_scale :
                 {IFA_SCALE_CHANNEL, IFA_SCALE_TOKEN, IFA_SCALE_TENSOR, IFA_SCALE_TOKEN_CHANNEL}) {
              Floats f = floats_case(number++, type, qk, v, q_scale, k_scale, v_scale);
              FloatsDevice d(f, stream);
              ifa_message why = {};
              ifa_status status = d.call(stream, &why);
              Output got = d.out.fetch(stream);
              check(status == IFA_OK && got == expected_of(f) && d.guard_whole(stream),
                    "floats: %s %s: %s", status == IFA_OK ? "differs" : ifa_status_name(status),
                    why.text, text_of(f).c_str());
            }
  Floats none; /* no keys: zeros, -infinity */
  none.args = ifa_cuda_attention_fast(1, 2, 1, 5, 0, 64);
  none.args.problem.lse = 1;
  draw(&none, 1);
  FloatsDevice d(none, stream);
  d.args.k = d.args.v = NULL;
  ifa_message why = {};
  check(d.call(stream, &why) == IFA_OK && d.out.fetch(stream) == expected_of(none),
        "floats: no keys: %s", why.text);
  must(cudaStreamDestroy(stream), "destroy");
}
