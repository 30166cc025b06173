/* attention.h - the parts of test_gpu_attention (test_attention.cu says what each is about), and
 * the problems that they run on. */
#ifndef IFA_GPU_TESTS_ATTENTION_H
#define IFA_GPU_TESTS_ATTENTION_H

#include <algorithm>
#include <functional>
#include <thread>

extern "C" {
#include "common/backend.h"
}
#include "gpu/tests/test_tensors.h"

/* What the parts run on: every head dimension's kernel and padding, formats, scales, masks, splits,
 * outputs. */
inline const char *const problems[] = {
    "b=1 hq=4 hkv=2 nq=130 nk=300 d=128 tau=4 out=f16",
    "b=1 hq=4 hkv=2 nq=130 nk=300 d=128 vscale=token tau=4 out=f16",
    "b=2 hq=2 hkv=2 nq=257 nk=257 d=64 tau=4 causal=1 out=f16 lse=1",
    "b=2 hq=2 hkv=1 nq=257 nk=257 d=64 vscale=token tau=4 causal=1 out=bf16 lse=1",
    "b=1 hq=6 hkv=2 nq=65 nk=1000 d=32 window=100 tau=0",
    "b=1 hq=3 hkv=3 nq=70 nk=500 d=96 vscale=token_channel causal=1 window=90 tau=inf lse=1",
    "b=1 hq=2 hkv=1 nq=33 nk=700 d=192 kscale=block kblock=128 split=256 lse=1",
    "b=1 hq=2 hkv=2 nq=100 nk=400 d=256 vscale=token split=128 out=f16",
    "b=2 hq=2 hkv=1 nq=50 nk=190 d=40 q=int4 k=int4 qscale=block qblock=16 kscale=tensor out=f16",
    "b=1 hq=4 hkv=1 nq=90 nk=333 d=128 v=int4 vscale=token causal=1 out=f16",
    "b=1 hq=4 hkv=4 nq=90 nk=333 d=64 q=int4 k=int4 v=int4 qscale=tensor vscale=tensor out=f16",
    "b=3 hq=1 hkv=1 nq=1 nk=1025 d=128 vscale=token out=f16 lse=1",
    "b=301 hq=300 hkv=300 nq=1 nk=2 d=1", /* more matrices than a grid's second dimension has */
};

void run_refusals();
void absent_refusals(); /* what there is to refuse without a device */
void run_floats();
void run_graph();
void run_position();
void run_load();
void run_devices();
int device_count();

#endif
