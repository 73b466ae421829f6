// A CUDA that computes nothing: memory and copies are real, kernels are only counted. Preload it before torch.
//
// It replaces the runtime, the driver, cuBLAS, cuFFT, cuDNN and NCCL. Functions that are not defined here return 0, see
// __init__.py. Environment: NULL_GPU_GIB (memory of a device), NULL_GPU_DEVICES, NULL_GPU_SM (compute capability times
// 10), NULL_GPU_NAMES (count kernels by name).
#include <cuda_runtime_api.h>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <sys/mman.h>
#include <dlfcn.h>

struct ncclUniqueId_ {
    char internal[128];
};
#define API extern "C" __attribute__((visibility("default")))

static std::recursive_mutex& lock() {
    static auto* m = new std::recursive_mutex;
    return *m;
}
static std::unordered_map<const void*, const char*>& names() {
    static auto* m = new std::unordered_map<const void*, const char*>;
    return *m;
}
static std::map<std::string, long>& counts() {
    static auto* m = new std::map<std::string, long>;
    return *m;
}
static std::map<std::string, long>& kernels() {
    static auto* m = new std::map<std::string, long>;
    return *m;
}
struct Block {
    size_t size;
    bool host;
    int device;
};
static std::map<uintptr_t, Block>& blocks() {
    static auto* m = new std::map<uintptr_t, Block>;
    return *m;
}
static size_t used[16];
static size_t limit() {
    static size_t v = 0;
    if (!v) {
        const char* e = getenv("NULL_GPU_GIB");
        v = (size_t)((e ? atof(e) : 139.8) * (1ull << 30));
    }
    return v;
}
static int devices() {
    const char* e = getenv("NULL_GPU_DEVICES");
    return e ? atoi(e) : 1;
}
static bool with_names() {
    static int v = -1;
    if (v < 0) v = getenv("NULL_GPU_NAMES") != nullptr;
    return v;
}
static thread_local int current = 0;
static bool capturing = false, broken = false;
static long captured = 0;
static cudaStream_t capture_stream = nullptr;

static void count(const char* name, long by = 1) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    counts()[name] += by;
}
static cudaError_t sync(const char* name) {
    count(name);
    count("SYNC");
    if (capturing) {
        broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    return cudaSuccess;
}

API void null_gpu_reset() {
    std::lock_guard<std::recursive_mutex> guard(lock());
    counts().clear();
    kernels().clear();
}
API const char* null_gpu_report(int which) {
    static thread_local std::string text;
    text.clear();
    std::lock_guard<std::recursive_mutex> guard(lock());
    for (auto& p : which ? kernels() : counts()) {
        text += p.first;
        text += '\t';
        text += std::to_string(p.second);
        text += '\n';
    }
    return text.c_str();
}
API void null_gpu_count(const char* name) { count(name); }
API void null_gpu_kernel(const char* name) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    counts()["LAUNCH"]++;
    kernels()[name]++;
    if (capturing) captured++;
}

// ---- devices
API cudaError_t cudaGetDeviceCount(int* n) {
    *n = devices();
    return *n ? cudaSuccess : cudaErrorNoDevice;
}
API cudaError_t cudaGetDevice(int* d) {
    *d = current;
    return cudaSuccess;
}
API cudaError_t cudaSetDevice(int d) {
    if (d < 0 || d >= devices()) return cudaErrorInvalidDevice;
    current = d;
    return cudaSuccess;
}
API cudaError_t cudaDriverGetVersion(int* v) {
    *v = 13000;
    return cudaSuccess;
}
API cudaError_t cudaRuntimeGetVersion(int* v) {
    *v = 13000;
    return cudaSuccess;
}
API const char* cudaGetErrorString(cudaError_t e) {
    return e == cudaErrorMemoryAllocation           ? "out of memory"
           : e == cudaErrorStreamCaptureUnsupported ? "operation not permitted when stream is capturing"
                                                    : "null CUDA error";
}
API const char* cudaGetErrorName(cudaError_t e) {
    return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "nullCudaError";
}
static int sm() {
    const char* e = getenv("NULL_GPU_SM");
    return e ? atoi(e) : 90;
}
API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int d) {
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "Null GPU sm_%d", sm());
    p->totalGlobalMem = limit();
    p->sharedMemPerBlock = 49152;
    p->sharedMemPerBlockOptin = sm() == 90 ? 232448 : 101376;
    p->sharedMemPerMultiprocessor = sm() == 90 ? 233472 : 102400;
    p->regsPerBlock = 65536;
    p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsPerMultiProcessor = sm() == 89 ? 1536 : 2048;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 2147483647;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = sm() / 10;
    p->minor = sm() % 10;
    p->multiProcessorCount = 132;
    p->l2CacheSize = 60 << 20;
    p->memPitch = 2147483647;
    p->textureAlignment = 512;
    p->concurrentKernels = 1;
    p->asyncEngineCount = 3;
    p->unifiedAddressing = 1;
    p->managedMemory = 1;
    p->maxBlocksPerMultiProcessor = 32;
    p->cooperativeLaunch = 1;
    p->pciBusID = d + 1;
    return cudaSuccess;
}
static int attribute(int a) {
    switch (a) {
        case 1: return 1024;
        case 2:
        case 3: return 1024;
        case 4: return 64;
        case 5: return 2147483647;
        case 6:
        case 7: return 65535;
        case 8: return 49152;
        case 10: return 32;
        case 12: return 65536;
        case 13: return 1980000;
        case 16: return 132;
        case 39: return sm() == 89 ? 1536 : 2048;
        case 75: return sm() / 10;
        case 76: return sm() % 10;
        case 36: return 3201000;
        case 37: return 6144;
        case 38: return 60 << 20;
        case 81: return sm() == 90 ? 233472 : 102400;
        case 82: return 65536;
        case 97: return sm() == 90 ? 232448 : 101376;
        case 106: return 32;
        default: return 1;
    }
}
API cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr a, int) {
    *v = attribute(a);
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetPCIBusId(char* s, int n, int d) {
    snprintf(s, n, "0000:0%d:00.0", d);
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetStreamPriorityRange(int* l, int* g) {
    *l = 0;
    *g = -5;
    return cudaSuccess;
}
API cudaError_t cudaDeviceCanAccessPeer(int* v, int, int) {
    *v = 1;
    return cudaSuccess;
}
API cudaError_t cudaDeviceSynchronize() { return sync("cudaDeviceSynchronize"); }

// ---- memory
static void* grab(size_t n, bool host) {
    n = (n + 4095) / 4096 * 4096;
    if (!n) n = 4096;
    std::lock_guard<std::recursive_mutex> guard(lock());
    if (!host && used[current] + n > limit()) {
        count("OOM");
        return nullptr;
    }
    void* p = mmap(nullptr, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    if (!host) used[current] += n;
    blocks()[(uintptr_t)p] = {n, host, current};
    return p;
}
static void drop(void* p) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    auto f = blocks().find((uintptr_t)p);
    if (f == blocks().end()) return;
    if (!f->second.host) used[f->second.device] -= f->second.size;
    munmap(p, f->second.size);
    blocks().erase(f);
}
static const Block* find(const void* p, uintptr_t* base = nullptr) {
    auto& b = blocks();
    auto f = b.upper_bound((uintptr_t)p);
    if (f == b.begin()) return nullptr;
    --f;
    if ((uintptr_t)p >= f->first + f->second.size) return nullptr;
    if (base) *base = f->first;
    return &f->second;
}
API cudaError_t cudaMalloc(void** p, size_t n) {
    if (capturing) { count("malloc while capturing"); }
    count("cudaMalloc");
    *p = grab(n, false);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
API cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t) { return cudaMalloc(p, n); }
API cudaError_t cudaFree(void* p) {
    if (p) {
        count("cudaFree");
        count("SYNC");
    }
    drop(p);
    return cudaSuccess;
}
API cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
    drop(p);
    return cudaSuccess;
}
API cudaError_t cudaHostAlloc(void** p, size_t n, unsigned) {
    count("cudaHostAlloc");
    *p = grab(n, true);
    return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
API cudaError_t cudaFreeHost(void* p) {
    drop(p);
    return cudaSuccess;
}
API cudaError_t cudaHostRegister(void* p, size_t n, unsigned) {
    count("cudaHostRegister");
    return cudaSuccess;
}
API cudaError_t cudaMemGetInfo(size_t* f, size_t* t) {
    *t = limit();
    *f = limit() - used[current];
    return cudaSuccess;
}
API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* a, const void* p) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    memset(a, 0, sizeof *a);
    auto b = find(p);
    a->type = b ? (b->host ? cudaMemoryTypeHost : cudaMemoryTypeDevice) : cudaMemoryTypeUnregistered;
    a->device = b ? b->device : -2;
    a->devicePointer = a->hostPointer = (void*)p;
    return cudaSuccess;
}
static cudaError_t copy(void* d, const void* s, size_t n, bool async) {
    const Block *from, *to;
    {
        std::lock_guard<std::recursive_mutex> guard(lock());
        from = find(s);
        to = find(d);
    }
    bool dd = to && !to->host, sd = from && !from->host;
    const char* kind = dd && sd ? "memcpy DtoD"
                       : dd     ? (from ? "memcpy HtoD pinned" : "memcpy HtoD PAGEABLE")
                       : sd     ? (to ? "memcpy DtoH pinned" : "memcpy DtoH PAGEABLE")
                                : "memcpy HtoH";
    count(kind);
    count((std::string(kind) + " bytes").c_str(), (long)n);
    if (async && capturing && !(dd && sd) && !(from && from->host) && !(to && to->host)) {
        broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    if (!(dd && sd) || n <= (1 << 20)) memmove(d, s, n);
    return cudaSuccess;
}
API cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, cudaMemcpyKind, cudaStream_t) {
    return copy(d, s, n, true);
}
API cudaError_t cudaMemcpyPeerAsync(void* d, int, const void* s, int, size_t n, cudaStream_t) {
    return copy(d, s, n, true);
}
API cudaError_t cudaMemcpy(void* d, const void* s, size_t n, cudaMemcpyKind) {
    sync("cudaMemcpy");
    return copy(d, s, n, false);
}
API cudaError_t cudaMemcpy2DAsync(void* d, size_t dp, const void* s, size_t sp, size_t w, size_t h, cudaMemcpyKind,
                                  cudaStream_t) {
    for (size_t r = 0; r < h; r++) copy((char*)d + r * dp, (const char*)s + r * sp, w, true);
    return cudaSuccess;
}
API cudaError_t cudaMemset(void*, int, size_t) {
    count("memset");
    return cudaSuccess;
}
API cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) {
    count("memset");
    if (capturing) captured++;
    return cudaSuccess;
}
API cudaError_t cudaGetSymbolAddress(void** p, const void*) {
    static void* some = nullptr;
    if (!some) some = grab(1 << 20, false);
    *p = some;
    return cudaSuccess;
}

// ---- streams, events
static void* handle() {
    static uintptr_t n = 0x1000;
    std::lock_guard<std::recursive_mutex> guard(lock());
    return calloc(1, 64);
}
API cudaError_t cudaStreamCreate(cudaStream_t* s) {
    *s = (cudaStream_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
    *s = (cudaStream_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned, int) {
    *s = (cudaStream_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaStreamGetPriority(cudaStream_t, int* p) {
    *p = 0;
    return cudaSuccess;
}
API cudaError_t cudaStreamSynchronize(cudaStream_t) { return sync("cudaStreamSynchronize"); }
API cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    count("cudaStreamWaitEvent");
    return cudaSuccess;
}
API cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void* u, unsigned) {
    f(s, cudaSuccess, u);
    return cudaSuccess;
}
API cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t f, void* u) {
    f(u);
    return cudaSuccess;
}
API cudaError_t cudaEventCreate(cudaEvent_t* e) {
    *e = (cudaEvent_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned) {
    *e = (cudaEvent_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    count("cudaEventRecord");
    return cudaSuccess;
}
API cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) {
    count("cudaEventRecord");
    return cudaSuccess;
}
API cudaError_t cudaEventSynchronize(cudaEvent_t) { return sync("cudaEventSynchronize"); }
API cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
    *ms = 0.01f;
    return cudaSuccess;
}

// ---- graphs
API cudaError_t cudaStreamBeginCapture(cudaStream_t s, cudaStreamCaptureMode) {
    capturing = true;
    broken = false;
    captured = 0;
    capture_stream = s;
    return cudaSuccess;
}
API cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t, const cudaGraphNode_t*,
                                              const cudaGraphEdgeData*, size_t, cudaStreamCaptureMode m) {
    return cudaStreamBeginCapture(s, m);
}
API cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* g) {
    capturing = false;
    count("captured nodes", captured);
    *g = (cudaGraph_t)handle();
    return broken ? cudaErrorStreamCaptureInvalidated : cudaSuccess;
}
API cudaError_t cudaStreamIsCapturing(cudaStream_t s, cudaStreamCaptureStatus* v) {
    *v = capturing && s == capture_stream ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
API cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, cudaStreamCaptureStatus* v, unsigned long long* id,
                                         cudaGraph_t* g, const cudaGraphNode_t** d, const cudaGraphEdgeData** e,
                                         size_t* n) {
    cudaStreamIsCapturing(s, v);
    if (id) *id = 1;
    if (g) *g = nullptr;
    if (d) *d = nullptr;
    if (e) *e = nullptr;
    if (n) *n = 0;
    return cudaSuccess;
}
API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* x, cudaGraph_t, unsigned long long) {
    *x = (cudaGraphExec_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
    count("cudaGraphLaunch");
    count("LAUNCH");
    return cudaSuccess;
}
API cudaError_t cudaGraphGetNodes(cudaGraph_t, cudaGraphNode_t*, size_t* n) {
    *n = (size_t)captured;
    return cudaSuccess;
}
API cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* p, int) {
    *p = (cudaMemPool_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaUserObjectCreate(cudaUserObject_t* o, void*, cudaHostFn_t, unsigned, unsigned) {
    *o = (cudaUserObject_t)handle();
    return cudaSuccess;
}

// ---- kernels
static cudaError_t launch(const void* f) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    counts()["LAUNCH"]++;
    if (capturing) captured++;
    if (with_names()) {
        auto n = names().find(f);
        kernels()[n == names().end() ? "?" : n->second]++;
    }
    return cudaSuccess;
}
API cudaError_t cudaLaunchKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) { return launch(f); }
API cudaError_t cudaLaunchCooperativeKernel(const void* f, dim3, dim3, void**, size_t, cudaStream_t) {
    return launch(f);
}
API cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* f, void**) { return launch(f); }
API cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3, dim3, void**, size_t, cudaStream_t) {
    return launch((const void*)f);
}
API cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) {
    *k = (cudaKernel_t)f;
    return cudaSuccess;
}
API char __cudaInitModule(void**) { return 1; }
API void** __cudaRegisterFatBinary(void*) { return (void**)handle(); }
API void __cudaRegisterFatBinaryEnd(void**) {}
API void __cudaUnregisterFatBinary(void**) {}
API void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
API void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, void*, void*, void*, void*,
                                int*) {
    if (with_names()) {
        std::lock_guard<std::recursive_mutex> guard(lock());
        names()[host] = name;
    }
}
struct Config {
    dim3 g, b;
    size_t s;
    cudaStream_t t;
};
static thread_local Config config[8];
static thread_local int depth = 0;
API unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t s, cudaStream_t t) {
    config[depth++ & 7] = {g, b, s, t};
    return 0;
}
API cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* s, void* t) {
    auto& c = config[--depth & 7];
    *g = c.g;
    *b = c.b;
    *s = c.s;
    *(cudaStream_t*)t = c.t;
    return cudaSuccess;
}
API cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* a, const void*) {
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024;
    a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = sm();
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void*, int, size_t) {
    *n = 2;
    return cudaSuccess;
}
API cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void*, int, size_t, unsigned) {
    *n = 2;
    return cudaSuccess;
}
API cudaError_t cudaLibraryLoadData(cudaLibrary_t* l, const void*, cudaJitOption*, void**, unsigned, cudaLibraryOption*,
                                    void**, unsigned) {
    *l = (cudaLibrary_t)handle();
    return cudaSuccess;
}
API cudaError_t cudaLibraryGetKernel(cudaKernel_t* k, cudaLibrary_t, const char*) {
    *k = (cudaKernel_t)handle();
    return cudaSuccess;
}

// ---- the driver
typedef int CUresult_;
API CUresult_ cuDriverGetVersion(int* v) {
    *v = 13000;
    return 0;
}
API CUresult_ cuDeviceGetCount(int* n) {
    *n = devices();
    return 0;
}
API CUresult_ cuDeviceGet(int* d, int n) {
    *d = n;
    return 0;
}
API CUresult_ cuDeviceGetAttribute(int* v, int a, int) {
    *v = attribute(a);
    return 0;
}
API CUresult_ cuDeviceGetName(char* s, int n, int) {
    snprintf(s, n, "Null GPU");
    return 0;
}
API CUresult_ cuDeviceGetUuid(void* u, int) {
    memset(u, 1, 16);
    return 0;
}
API CUresult_ cuDeviceGetUuid_v2(void* u, int) {
    memset(u, 1, 16);
    return 0;
}
static void* context() {
    static void* c = handle();
    return c;
}
API CUresult_ cuCtxGetCurrent(void** c) {
    *c = context();
    return 0;
}
API CUresult_ cuCtxGetDevice(int* d) {
    *d = current;
    return 0;
}
API CUresult_ cuDevicePrimaryCtxRetain(void** c, int) {
    *c = context();
    return 0;
}
API CUresult_ cuDevicePrimaryCtxGetState(int, unsigned* f, int* a) {
    *f = 0;
    *a = 1;
    return 0;
}
API CUresult_ cuGetErrorString(int, const char** s) {
    *s = "null CUDA";
    return 0;
}
API CUresult_ cuGetErrorName(int, const char** s) {
    *s = "null CUDA";
    return 0;
}
API CUresult_ cuModuleLoadData(void** m, const void*) {
    *m = handle();
    count("cuModuleLoadData");
    return 0;
}
API CUresult_ cuModuleLoad(void** m, const char*) {
    *m = handle();
    return 0;
}
API CUresult_ cuModuleLoadDataEx(void** m, const void*, unsigned, void*, void**) {
    *m = handle();
    return 0;
}
API CUresult_ cuModuleGetFunction(void** f, void*, const char* name) {
    char* h = (char*)handle();
    *f = h;
    std::lock_guard<std::recursive_mutex> guard(lock());
    names()[h] = strdup(name);
    return 0;
}
API CUresult_ cuFuncGetAttribute(int* v, int a, void*) {
    *v = a == 0 ? 1024 : a == 4 ? 32 : 0;
    return 0;
}
API CUresult_ cuLaunchKernel(void* f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*,
                             void**, void**) {
    launch(f);
    return 0;
}
API CUresult_ cuLaunchKernelEx(const void*, void* f, void**, void**) {
    launch(f);
    return 0;
}
API CUresult_ cuLaunchCooperativeKernel(void* f, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                                        void*, void**) {
    launch(f);
    return 0;
}
API CUresult_ cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n, void*, int, size_t) {
    *n = 2;
    return 0;
}
API CUresult_ cuPointerGetAttribute(void* v, int a, uintptr_t p) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    uintptr_t base = p;
    auto b = find((void*)p, &base);
    if (!b) return 1;
    switch (a) {
        case 2: *(int*)v = b->host ? 1 : 2; break;
        case 3:
        case 4:
        case 11: *(uintptr_t*)v = a == 11 ? base : p; break;
        case 7: *(unsigned long long*)v = 1; break;
        case 9: *(int*)v = b->device; break;
        default: *(uintptr_t*)v = 0;
    }
    return 0;
}
API CUresult_ cuMemGetAddressRange_v2(uintptr_t* base, size_t* n, uintptr_t p) {
    std::lock_guard<std::recursive_mutex> guard(lock());
    auto b = find((void*)p, base);
    if (!b) return 1;
    if (n) *n = b->size;
    return 0;
}
static int nothing() { return 0; }
API cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** f, unsigned, unsigned long long,
                                                 cudaDriverEntryPointQueryResult* r) {
    void* own = dlsym(RTLD_DEFAULT, name);
    if (!own) { own = dlsym(RTLD_DEFAULT, (std::string(name) + "_v2").c_str()); }
    *f = own ? own : (void*)nothing;
    if (r) *r = cudaDriverEntryPointSuccess;
    return cudaSuccess;
}

// ---- cuBLAS, cuFFT, cuDNN, NCCL: handles are given out, work is counted as one kernel
#define MAKE(name)                \
    API int name(void** h, ...) { \
        *h = handle();            \
        return 0;                 \
    }
MAKE(cublasCreate_v2)
MAKE(cublasLtCreate)
MAKE(cublasLtMatmulDescCreate)
MAKE(cublasLtMatrixLayoutCreate)
MAKE(cublasLtMatmulPreferenceCreate)
MAKE(cusparseCreate)
MAKE(cusolverDnCreate)
MAKE(cudnnCreate)
MAKE(cudnnCreateActivationDescriptor)
MAKE(cudnnCreateConvolutionDescriptor)
MAKE(cudnnCreateDropoutDescriptor)
MAKE(cudnnCreateFilterDescriptor)
MAKE(cudnnCreatePoolingDescriptor)
MAKE(cudnnCreateRNNDescriptor)
MAKE(cudnnCreateTensorDescriptor)
MAKE(cudnnCreateSpatialTransformerDescriptor)
MAKE(cudnnCreateRNNDataDescriptor)
API int cublasGetVersion_v2(void*, int* v) {
    *v = 130000;
    return 0;
}
API int cublasGetPointerMode_v2(void*, int* m) {
    *m = 0;
    return 0;
}
API int cublasGetMathMode(void*, int* m) {
    *m = 0;
    return 0;
}
API int cublasGetStream_v2(void*, void** s) {
    *s = nullptr;
    return 0;
}
API int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void* res, int* n) {
    memset(res, 0, 128);
    *n = 1;
    return 0;
}
#define WORK(name)              \
    API int name(...) {         \
        null_gpu_kernel(#name); \
        return 0;               \
    }
WORK(cublasLtMatmul)
WORK(cublasGemmEx)
WORK(cublasSgemm_v2)
WORK(cublasDgemm_v2)
WORK(cublasHgemm)
WORK(cublasSgemmEx)
WORK(cublasGemmStridedBatchedEx)
WORK(cublasSgemmStridedBatched)
WORK(cublasDgemmStridedBatched)
WORK(cublasSgemv_v2)
WORK(cublasDgemv_v2)
WORK(cublasSdot_v2)
WORK(cublasDdot_v2)
WORK(cublasDotEx)
WORK(cublasGemmEx_64)
WORK(cublasSgemm_v2_64)
WORK(cublasGemmStridedBatchedEx_64)
API int cufftCreate(int* h) {
    static int n = 1;
    *h = n++;
    count("cufft plan");
    return 0;
}
API int cufftXtMakePlanMany(int, int, long long*, long long*, long long, long long, int, long long*, long long,
                            long long, int, long long, size_t* work, int) {
    *work = 0;
    return 0;
}
WORK(cufftXtExec)
API size_t cudnnGetVersion() { return 92400; }
API size_t cudnnGetCudartVersion() { return 13000; }
API int cudnnGetProperty(int p, int* v) {
    *v = p == 0 ? 9 : p == 1 ? 24 : 0;
    return 0;
}
API const char* cudnnGetErrorString(int) { return "null cuDNN"; }
API int cudnnBackendCreateDescriptor(int type, void** d) {
    *d = handle();
    *(int*)*d = type;
    return 0;
}
API int cudnnBackendDestroyDescriptor(void* d) {
    free(d);
    return 0;
}
API int cudnnBackendExecute(void*, void*, void*) {
    null_gpu_kernel("cudnnBackendExecute");
    return 0;
}
// Attribute names: 200 ENGINEHEUR_MODE, 201 OPERATION_GRAPH, 202 RESULTS; 300 ENGINECFG_ENGINE; 400 PLAN_HANDLE, 402
// WORKSPACE_SIZE; 1300 ENGINE_...
API int cudnnBackendGetAttribute(void* d, int name, int type, int64_t asked, int64_t* n, void* out) {
    int64_t given = 0;
    if (name == 202)
        given = 1;  // heuristics: one configuration
    else if (name == 300)
        given = 1;  // its engine
    else if (type == 3 && name != 302)
        given = 1;  // CUDNN_TYPE_INT64
    if (n) *n = given;
    if (out && type == 3 && asked > 0) *(int64_t*)out = name == 402 ? 0 : 1;
    return 0;
}
WORK(cudnnConvolutionForward)
WORK(cudnnConvolutionBackwardData)
WORK(cudnnConvolutionBackwardFilter)
WORK(cudnnBatchNormalizationForwardTrainingEx)
WORK(cudnnBatchNormalizationBackwardEx)
WORK(cudnnBatchNormalizationForwardInference)
WORK(cudnnPoolingForward)
API int ncclGetVersion(int* v) {
    *v = 23007;
    return 0;
}
API int ncclGetUniqueId(ncclUniqueId_* u) {
    memset(u, 7, sizeof *u);
    return 0;
}
struct Comm {
    int n, r;
};
API int ncclCommInitRank(void** c, int n, ncclUniqueId_, int r) {
    auto* k = new Comm{n, r};
    *c = k;
    count("ncclCommInit");
    return 0;
}
API int ncclCommInitRankConfig(void** c, int n, ncclUniqueId_, int r, void*) {
    auto* k = new Comm{n, r};
    *c = k;
    count("ncclCommInit");
    return 0;
}
API int ncclCommSplit(void* c, int, int, void** out, void*) {
    *out = new Comm(*(Comm*)c);
    return 0;
}
API int ncclCommCount(void* c, int* n) {
    *n = ((Comm*)c)->n;
    return 0;
}
API int ncclCommUserRank(void* c, int* r) {
    *r = ((Comm*)c)->r;
    return 0;
}
API int ncclCommGetAsyncError(void*, int* e) {
    *e = 0;
    return 0;
}
API const char* ncclGetErrorString(int) { return "null NCCL"; }
API const char* ncclGetLastError(void*) { return "null NCCL"; }
API int ncclMemAlloc(void** p, size_t n) {
    *p = grab(n, false);
    return 0;
}

static size_t width(int t) {
    static const size_t w[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return w[t];
}
// Every rank is assumed to hold the same values as this one.
API int ncclAllReduce(const void* s, void* r, size_t n, int t, int, void*, void*) {
    null_gpu_kernel("ncclAllReduce");
    count("ncclAllReduce bytes", n * width(t));
    if (s != r) memcpy(r, s, n * width(t));
    return 0;
}
API int ncclBroadcast(const void* s, void* r, size_t n, int t, int, void*, void*) {
    null_gpu_kernel("ncclBroadcast");
    if (s != r && s) memmove(r, s, n * width(t));
    return 0;
}
API int ncclBcast(void*, size_t, int, int, void*, void*) {
    null_gpu_kernel("ncclBcast");
    return 0;
}
API int ncclReduce(const void* s, void* r, size_t n, int t, int, int, void*, void*) {
    null_gpu_kernel("ncclReduce");
    if (s != r) memcpy(r, s, n * width(t));
    return 0;
}
API int ncclAllGather(const void* s, void* r, size_t n, int t, void* c, void*) {
    null_gpu_kernel("ncclAllGather");
    count("ncclAllGather bytes", n * width(t));
    size_t b = n * width(t);
    for (int k = 0; k < ((Comm*)c)->n; k++) memmove((char*)r + k * b, s, b);
    return 0;
}
API int ncclReduceScatter(const void* s, void* r, size_t n, int t, int, void* c, void*) {
    null_gpu_kernel("ncclReduceScatter");
    count("ncclReduceScatter bytes", n * width(t));
    size_t b = n * width(t);
    memmove(r, (const char*)s + ((Comm*)c)->r * b, b);
    return 0;
}
API int ncclSend(const void*, size_t, int, int, void*, void*) {
    null_gpu_kernel("ncclSend");
    return 0;
}
API int ncclRecv(void*, size_t, int, int, void*, void*) {
    null_gpu_kernel("ncclRecv");
    return 0;
}

// ---- sizes that cuDNN returns
API int cudnnGetBatchNormalizationTrainingExReserveSpaceSize(void*, int, int, void*, void*, size_t* size) {
    *size = 0;
    return 0;
}
API int cudnnGetBatchNormalizationForwardTrainingExWorkspaceSize(void*, int, int, void*, void*, void*, void*, void*,
                                                                 size_t* size) {
    *size = 0;
    return 0;
}
API int cudnnGetBatchNormalizationBackwardExWorkspaceSize(void*, int, int, void*, void*, void*, void*, void*, void*,
                                                          void*, size_t* size) {
    *size = 0;
    return 0;
}
