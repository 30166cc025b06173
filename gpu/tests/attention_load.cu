/* attention_load.cu - attention while other streams keep the device busy; in the order of its
 * stream; from several host threads at once; on every device at once. */
#include "gpu/tests/attention.h"

/* Keeps multiprocessors and memory busy for a while. */
static __global__ void busy(uint32_t *memory, uint32_t words, int rounds) {
  uint32_t x = blockIdx.x * blockDim.x + threadIdx.x;
  for (int i = 0; i < rounds; i++) {
    x = x * 1664525u + 1013904223u;
    memory[x % words] ^= x; /* races with itself: nobody reads the result */
  }
}

enum { BUSY_WORDS = 1 << 24 };

static Block busy_memory() {
  Block memory((size_t)BUSY_WORDS * 4);
  must(cudaMemset(memory.data, 0, memory.bytes), "memset");
  must(cudaDeviceSynchronize(), "memset"); /* the streams here do not wait for the default one */
  return memory;
}

static void launch_busy(const Block &memory, int blocks, int rounds, cudaStream_t stream) {
  busy<<<blocks, 256, 0, stream>>>((uint32_t *)memory.data, BUSY_WORDS, rounds);
  must(cudaGetLastError(), "busy");
}

/* Attention while a second stream runs other work and a third another attention. */
static void beside_other_streams(cudaStream_t stream) {
  cudaStream_t second = new_stream(), third = new_stream();
  Block memory = busy_memory();
  ifa_problem other = problem_of("b=1 hq=8 hkv=2 nq=500 nk=1500 d=64 vscale=token tau=4 out=f16");
  Tensors other_tensors = draw_tensors(other, 41);
  Output other_expected = expected_of(other, other_tensors.inputs());
  Device beside(other_tensors, third);
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 42);
    Output expected = expected_of(p, t.inputs());
    Device d(t, stream);
    must(cudaDeviceSynchronize(), "before the load");
    for (int i = 0; i < 10; i++) {
      ifa_message why = {}, other_why = {};
      d.out.poison(stream);
      beside.out.poison(third);
      /* other multiprocessors are taken each time */
      launch_busy(memory, 37 + 60 * i, 2000, second);
      ifa_status other_status = beside.attend(third, &other_why), status = d.attend(stream, &why);
      launch_busy(memory, 500, 500, second);
      check(status == IFA_OK && d.out.fetch(stream) == expected,
            "under load, run %d differs or fails (%s): %s", i, why.text, text);
      check(other_status == IFA_OK && beside.out.fetch(third) == other_expected,
            "the other attention, run %d differs or fails (%s)", i, other_why.text);
    }
    must(cudaStreamSynchronize(second), "busy");
  }
  must(cudaStreamDestroy(second), "destroy");
  must(cudaStreamDestroy(third), "destroy");
}

/* The operands come late, by work queued on the same stream: a call that ran anywhere else would
 * find other ones. */
static void in_stream_order(cudaStream_t stream) {
  Block memory = busy_memory();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    Tensors t = draw_tensors(p, 43), before = draw_tensors(p, 44);
    Output expected = expected_of(p, t.inputs());
    Device source(t, stream), d(before, stream);
    must(cudaStreamSynchronize(stream), "operands");
    launch_busy(memory, 2000, 20000, stream);
    const struct {
      const Block *to, *from;
    } copies[] = {{&d.q, &source.q},
                  {&d.k, &source.k},
                  {&d.v, &source.v},
                  {&d.q_scale, &source.q_scale},
                  {&d.k_scale, &source.k_scale},
                  {&d.v_scale, &source.v_scale},
                  {&d.v_channel_scale, &source.v_channel_scale}};
    for (const auto &copy : copies)
      must(cudaMemcpyAsync(copy.to->data, copy.from->data, copy.from->bytes,
                           cudaMemcpyDeviceToDevice, stream),
           "copy");
    ifa_message why = {};
    ifa_status status = d.attend(stream, &why);
    d.load(before, stream); /* and are gone again right behind it */
    check(status == IFA_OK && d.out.fetch(stream) == expected, "not in its stream's order (%s): %s",
          why.text, text);
  }
}

/* Each thread its own stream and problem, on the current device of this one. */
static void from_host_threads(int rounds) {
  enum { THREADS = 8 };
  int device = 0;
  must(cudaGetDevice(&device), "device");
  std::vector<Tensors> tensors;
  std::vector<Output> expected;
  for (int i = 0; i < THREADS; i++) {
    ifa_problem p = problem_of(problems[i]);
    tensors.push_back(draw_tensors(p, 50 + (uint64_t)i));
    expected.push_back(expected_of(p, tensors.back().inputs()));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < THREADS; i++)
    threads.emplace_back([&, i] {
      must(cudaSetDevice(device), "device");
      cudaStream_t stream = new_stream();
      Device d(tensors[(size_t)i], stream);
      for (int n = 0; n < rounds; n++) {
        ifa_message why = {};
        d.out.poison(stream);
        ifa_status status = d.attend(stream, &why);
        check(status == IFA_OK && d.out.fetch(stream) == expected[(size_t)i],
              "thread %d, run %d differs or fails (%s): %s", i, n, why.text, problems[i]);
      }
      must(cudaStreamDestroy(stream), "destroy");
    });
  for (std::thread &thread : threads) thread.join();
}

void run_load() {
  cudaStream_t stream = new_stream();
  beside_other_streams(stream);
  in_stream_order(stream);
  must(cudaStreamDestroy(stream), "destroy");
  from_host_threads(50);
}

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) (void)cudaGetLastError(), count = 0;
  return count;
}

/* One thread a device, all at once; then one thread that goes from device to device with work in
 * flight on the others. */
void run_devices() {
  int count = device_count();
  std::vector<std::thread> threads;
  for (int device = 0; device < count; device++)
    threads.emplace_back([device] {
      must(cudaSetDevice(device), "device");
      from_host_threads(10);
    });
  for (std::thread &thread : threads) thread.join();
  for (const char *text : problems) {
    ifa_problem p = problem_of(text);
    std::vector<Tensors> tensors;
    std::vector<cudaStream_t> streams;
    std::vector<Device> devices;
    devices.reserve((size_t)count);
    std::vector<ifa_message> why((size_t)count);
    std::vector<ifa_status> status((size_t)count);
    for (int device = 0; device < count; device++) {
      must(cudaSetDevice(device), "device");
      tensors.push_back(draw_tensors(p, 60 + (uint64_t)device));
      streams.push_back(new_stream());
      devices.emplace_back(tensors.back(), streams.back());
    }
    for (int device = 0; device < count; device++) {
      must(cudaSetDevice(device), "device");
      status[(size_t)device] =
          devices[(size_t)device].attend(streams[(size_t)device], &why[(size_t)device]);
    }
    for (int device = 0; device < count; device++) {
      size_t i = (size_t)device;
      must(cudaSetDevice(device), "device");
      check(status[i] == IFA_OK &&
                devices[i].out.fetch(streams[i]) == expected_of(p, tensors[i].inputs()),
            "device %d differs or fails (%s): %s", device, why[i].text, text);
      must(cudaStreamDestroy(streams[i]), "destroy");
    }
  }
  must(cudaSetDevice(0), "device");
}
