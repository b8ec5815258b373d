// Loads methods of a .pte in a process without Python, and says what it holds and how long a processor took.
//
//     P=$(python -c "import executorch; print(list(executorch.__path__)[0])")
//     g++ -std=c++17 -O1 -w benchmarks/executorch_load.cpp -o load -DC10_USING_CUSTOM_GENERATED_MACROS \
//         -I$P/include -I$P/include/executorch/runtime/core/portable_type/c10 -L$P/lib -Wl,-rpath,$P/lib \
//         -Wl,--no-as-needed -lexecutorch -lexecutorch_backend_xnnpack -lexecutorch_threadpool \
//         -lexecutorch_kernels_optimized -lexecutorch_kernels_quantized
//     ./load model.pte mmap|mlock|file no|memory|FILE METHOD ...
//
// The third argument is XNNPACK's weight cache: none, one for all methods, or one in a file, which is made if it is not
// there. Nothing is run: the operators of the LLM extension, which come with torch alone, stand here for nothing.

#include <executorch/extension/module/module.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/platform/runtime.h>

#include <cstdio>
#include <ctime>
#include <fstream>
#include <string>

using executorch::extension::Module;
using namespace executorch::runtime;

static double processor_seconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void show(const std::string& what) {
  std::printf("%s:", what.c_str());
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    for (const char* name : {"VmHWM", "VmRSS", "RssAnon", "RssFile"}) {
      long kib = 0;
      if (line.rfind(name, 0) == 0 && std::sscanf(line.c_str() + std::string(name).size(), ": %ld", &kib) == 1) {
        std::printf(" %s %.1f MB", name, kib * 1024 / 1e6);
      }
    }
  }
  std::puts("");
}

static void nothing(KernelRuntimeContext&, Span<EValue*>) {}

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fprintf(stderr, "usage: load model.pte mmap|mlock|file no|memory|FILE METHOD ...\n");
    return 2;
  }
  runtime_init();
  static const Kernel kernels[] = {Kernel("llama::custom_sdpa.out", nothing), Kernel("llama::update_cache.out", nothing)};
  (void)register_kernels({kernels, 2});
  const std::string mode = argv[2], cache = argv[3];
  show("before");
  const double started = processor_seconds();
  Module module(
      argv[1],
      mode == "file"        ? Module::LoadMode::File
          : mode == "mlock" ? Module::LoadMode::MmapUseMlockIgnoreErrors
                            : Module::LoadMode::Mmap);
  BackendOptions<2> options;
  LoadBackendOptionsMap map;
  if (cache != "no") {
    (void)options.set_option("weight_cache_enabled", true);
    if (cache != "memory") {
      (void)options.set_option("packed_cache_path", cache.c_str());
    }
    (void)map.set_options("XnnpackBackend", options.view());
    (void)module.load(map);
  }
  for (int each = 4; each < argc; each++) {
    if (module.load_method(argv[each]) != Error::Ok) {
      std::fprintf(stderr, "%s cannot be loaded\n", argv[each]);
      return 1;
    }
    show(argv[each]);
  }
  std::printf("%.3f s of a processor\n", processor_seconds() - started);
}
