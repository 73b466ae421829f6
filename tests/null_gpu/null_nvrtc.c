// A runtime compiler that compiles nothing, see null_cuda.cpp.
#include <stdlib.h>
#include <string.h>
void null_gpu_count(const char*);
const char* nvrtcGetErrorString(int e) { return "null NVRTC"; }
int nvrtcVersion(int* a, int* b) {
    *a = 13;
    *b = 0;
    return 0;
}
int nvrtcCreateProgram(void** p, const char* s, const char* n, int k, const char* const* h, const char* const* i) {
    *p = calloc(1, 64);
    null_gpu_count("NVRTC compile");
    return 0;
}
int nvrtcDestroyProgram(void** p) { return 0; }
int nvrtcCompileProgram(void* p, int n, const char* const* o) { return 0; }
int nvrtcAddNameExpression(void* p, const char* n) { return 0; }
int nvrtcGetPTXSize(void* p, size_t* n) {
    *n = 16;
    return 0;
}
int nvrtcGetCUBINSize(void* p, size_t* n) {
    *n = 16;
    return 0;
}
int nvrtcGetProgramLogSize(void* p, size_t* n) {
    *n = 1;
    return 0;
}
int nvrtcGetLoweredName(void* p, const char* e, const char** n) {
    *n = "jitted";
    return 0;
}
int nvrtcGetPTX(void* p, char* s) {
    memset(s, 0, 16);
    return 0;
}
int nvrtcGetCUBIN(void* p, char* s) {
    memset(s, 0, 16);
    return 0;
}
int nvrtcGetProgramLog(void* p, char* s) {
    *s = 0;
    return 0;
}
