// What runs on the GPU around the network: frames to its input (preprocess_*), its output to detections (nms_*).
//
// Compiled by NVRTC for the GPU at hand, and by g++ for tests without one (tests/runtime/cuda_shim.h); so there are no
// includes, nothing between the threads of a warp, and shared memory is dynamic only. Compute capability 7.5 will do.
// runtime/preprocess.py and runtime/nms.py are the references; where a fused multiply-add would round differently,
// arithmetic is spelled __fmul_rn and so on. kernels.py puts all of it on a stream.

typedef unsigned char Byte;
typedef unsigned long long Size;
typedef unsigned long long Key;

// ---------------------------------------------------------------------------------------------------------------------
// Preprocess: one thread a pixel of the model's input.

struct Bgr {
    int b, g, r;
};

// A frame: uint8 [height, width, 3] with rows a pitch (bytes) apart.
struct BgrFrame {
    const Byte* pixels;
    Size pitch;

    __device__ Bgr at(int x, int y) const {
        const Byte* pixel = pixels + y * pitch + 3 * x;
        return {pixel[0], pixel[1], pixel[2]};
    }
};

// Fixed point with 20 bits behind the point, as OpenCV has it: r = luma * (y - black) + v_to_r * (v - 128), and so on.
struct Nv12Frame {
    const Byte* luma;
    const Byte* chroma;  // u and v in turns, for 2×2 pixels each
    Size luma_pitch, chroma_pitch;
    int black, luma_scale, u_to_b, u_to_g, v_to_g, v_to_r;

    __device__ static int rounded(int value) { return min(max((value + (1 << 19)) >> 20, 0), 255); }

    __device__ Bgr at(int x, int y) const {
        const int l = luma_scale * max(luma[y * luma_pitch + x] - black, 0);
        const Byte* uv = chroma + (y >> 1) * chroma_pitch + (x & ~1);
        const int u = uv[0] - 128, v = uv[1] - 128;
        return {rounded(l + u_to_b * u), rounded(l + u_to_g * u + v_to_g * v), rounded(l + v_to_r * v)};
    }
};

// The two neighbours of a pixel along one axis, and the weight of the second in 2048ths.
struct Neighbours {
    int first, second, weight;
};

// Half-pixel centres, with the float arithmetic and the 11 bits of weight of cv2.resize; edges repeat.
__device__ Neighbours neighbours(int index, int size, int frame_size) {
    const float position = __fdiv_rn((float)((2 * index + 1) * frame_size - size), (float)(2 * size));
    const float low = floorf(position);
    const int first = (int)low;
    return {max(first, 0), min(first + 1, frame_size - 1), __float2int_rn((position - low) * 2048)};
}

// Bits are dropped where OpenCV drops them (VResizeLinear for uint8 in its resize.cpp).
__device__ Byte blend(int top_left, int top_right, int bottom_left, int bottom_right, int right, int bottom) {
    const int top = top_left * (2048 - right) + top_right * right;
    const int low = bottom_left * (2048 - right) + bottom_right * right;
    return (Byte)(((((2048 - bottom) * (top >> 4)) >> 16) + ((bottom * (low >> 4)) >> 16) + 2) >> 2);
}

// out: uint8 [height, width, 3], RGB.
template <typename Frame>
__device__ void preprocess(const Frame& frame, int frame_height, int frame_width, Byte* out, int height, int width) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Neighbours columns = neighbours(x, width, frame_width), rows = neighbours(y, height, frame_height);
    const Bgr a = frame.at(columns.first, rows.first), b = frame.at(columns.second, rows.first);
    const Bgr c = frame.at(columns.first, rows.second), d = frame.at(columns.second, rows.second);
    out += 3 * (y * width + x);
    out[0] = blend(a.r, b.r, c.r, d.r, columns.weight, rows.weight);
    out[1] = blend(a.g, b.g, c.g, d.g, columns.weight, rows.weight);
    out[2] = blend(a.b, b.b, c.b, d.b, columns.weight, rows.weight);
}

extern "C" __global__ void preprocess_bgr(
    const Byte* pixels, Size pitch, int frame_height, int frame_width, Byte* out, int height, int width
) {
    preprocess(BgrFrame{pixels, pitch}, frame_height, frame_width, out, height, width);
}

extern "C" __global__ void preprocess_nv12(
    const Byte* luma, Size luma_pitch, const Byte* chroma, Size chroma_pitch, int frame_height, int frame_width,
    int black, int luma_scale, int u_to_b, int u_to_g, int v_to_g, int v_to_r, Byte* out, int height, int width
) {
    const Nv12Frame frame = {
        luma, chroma, luma_pitch, chroma_pitch, black, luma_scale, u_to_b, u_to_g, v_to_g, v_to_r
    };
    preprocess(frame, frame_height, frame_width, out, height, width);
}

// ---------------------------------------------------------------------------------------------------------------------
// NMS in three kernels: collect the scores above the threshold by class; of each class take the best and suppress; of
// what all classes keep take the best.
//
// A score travels as a key that orders as the contract does, the best the largest: the bits of the score, which is
// above 0, then the complement of class * anchors + anchor. No two keys are equal, so that what is selected and how it
// is sorted never depend on the order in which atomics put keys into a list.

__device__ Key make_key(float score, unsigned class_anchor) {
    return (Key)__float_as_uint(score) << 32 | (unsigned)~class_anchor;
}
__device__ float score_of(Key key) { return __uint_as_float((unsigned)(key >> 32)); }
__device__ unsigned class_anchor_of(Key key) { return ~(unsigned)key; }

// To the image. No box with a NaN gets here.
__device__ float clip(float value) { return value < 0 ? 0 : value > 1 ? 1 : value; }
__device__ float4 clip(float4 box) { return make_float4(clip(box.x), clip(box.y), clip(box.z), clip(box.w)); }

// A grid [blocks, batch] walks the scores in the order of memory.
//   boxes [batch, anchors, 4], scores [batch, anchors, classes]; counts [batch, classes], zero before;
//   keys [batch, classes, anchors], of which the first `counts` of a class are set.
extern "C" __global__ void nms_collect(
    const float4* __restrict__ boxes, const float* __restrict__ scores, unsigned anchors, unsigned classes,
    float score_threshold, unsigned* counts, Key* keys
) {
    const unsigned image = blockIdx.y, size = anchors * classes;
    boxes += (Size)image * anchors;
    scores += (Size)image * size;
    counts += image * classes;
    keys += (Size)image * size;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < size; i += gridDim.x * blockDim.x) {
        const float score = scores[i];
        if (!(score > score_threshold)) continue;  // a NaN is not
        const unsigned anchor = i / classes, label = i % classes;
        const float4 box = boxes[anchor];
        if (box.x != box.x || box.y != box.y || box.z != box.z || box.w != box.w) continue;
        keys[label * anchors + atomicAdd(&counts[label], 1u)] = make_key(score, label * anchors + anchor);
    }
}

const int DIGIT_BITS = 9;  // 7 digits for the 63 bits of a key; the first has the score's exponent
const unsigned DIGITS = 1 << DIGIT_BITS;

// Shared memory in which a block finds the best keys of a list, of `limit` each.
struct Selection {
    Key* unsorted;
    Key* sorted;
    unsigned* histogram;  // [DIGITS]
    unsigned* found;      // [4]: digit, keys wanted of that digit, all of that digit are wanted; keys taken

    __device__ Selection(float4* shared, unsigned limit)
        : unsorted((Key*)shared), sorted(unsorted + limit), histogram((unsigned*)(sorted + limit)),
          found(histogram + DIGITS) {}
    __device__ float4* end() const { return (float4*)(found + 4); }
};

// The least of the best `wanted` of `count` keys, wanted < count: radix select, from the highest digit down.
__device__ Key least_wanted(const Key* keys, unsigned count, unsigned wanted, const Selection& shared) {
    Key prefix = 0;  // the digits so far of the key that is looked for
    for (int shift = 63 - DIGIT_BITS;; shift -= DIGIT_BITS) {
        for (unsigned digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) shared.histogram[digit] = 0;
        __syncthreads();
        for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
            const Key key = keys[i] >> shift;
            if (key >> DIGIT_BITS == prefix) atomicAdd(&shared.histogram[key % DIGITS], 1u);
        }
        __syncthreads();
        for (unsigned digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) {
            const unsigned here = shared.histogram[digit];
            unsigned above = 0;
            for (unsigned higher = digit + 1; higher < DIGITS; higher++) above += shared.histogram[higher];
            if (above < wanted && wanted <= above + here) {  // true for one digit
                shared.found[0] = digit;
                shared.found[1] = wanted - above;
                shared.found[2] = here == wanted - above;
            }
        }
        __syncthreads();
        prefix = prefix << DIGIT_BITS | shared.found[0];
        wanted = shared.found[1];
        if (shared.found[2]) return prefix << shift;  // at the latest with the last digit: no two keys are equal
    }
}

// The best `limit` of `count` keys into shared.sorted, best first; how many there are.
__device__ unsigned best_first(const Key* keys, unsigned count, unsigned limit, const Selection& shared) {
    const Key least = count > limit ? least_wanted(keys, count, limit, shared) : 0;
    unsigned* taken = &shared.found[3];
    if (threadIdx.x == 0) *taken = 0;
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x)
        if (keys[i] >= least) shared.unsorted[atomicAdd(taken, 1u)] = keys[i];
    __syncthreads();
    count = min(count, limit);
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {  // few keys: each counts those before it
        const Key key = shared.unsorted[i];
        unsigned rank = 0;
        for (unsigned other = 0; other < count; other++) rank += shared.unsorted[other] > key;
        shared.sorted[rank] = key;
    }
    __syncthreads();
    return count;
}

__device__ float area(float4 box) { return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y)); }

__device__ bool overlap(float4 a, float4 b, float iou_threshold) {
    const float width = max(__fsub_rn(min(a.z, b.z), max(a.x, b.x)), 0.0f);
    const float height = max(__fsub_rn(min(a.w, b.w), max(a.y, b.y)), 0.0f);
    const float intersection = __fmul_rn(width, height);
    if (!(intersection > 0)) return false;  // most pairs; the thresholds are not below 0
    const float both = __fsub_rn(__fadd_rn(area(a), area(b)), intersection);
    return __fdiv_rn(intersection, both) > iou_threshold;
}

extern __shared__ float4 shared_memory[];

const unsigned TILE = 32;  // boxes whose overlaps are the bits of one word

// A block a class and image: grid [classes, batch].
//   counts, keys: of nms_collect; kept_counts [batch], zero before;
//   kept [batch, classes * candidates], of which the first `kept_counts` of an image are set.
// Shared memory: kernels.py, `Nms`.
extern "C" __global__ void nms_suppress(
    const float4* __restrict__ boxes, unsigned anchors, unsigned candidates, unsigned detections, float iou_threshold,
    const unsigned* counts, const Key* keys, unsigned* kept_counts, Key* kept
) {
    const unsigned label = blockIdx.x, classes = gridDim.x, image = blockIdx.y, row = image * classes + label;
    const Selection selection(shared_memory, candidates);
    float4* box = selection.end();                       // [candidates], best first
    unsigned* overlaps = (unsigned*)(box + candidates);  // [candidates]: with which boxes of the tile
    unsigned* dropped = overlaps + candidates;           // [candidates]
    boxes += (Size)image * anchors;
    keys += (Size)row * anchors;
    kept += (Size)image * classes * candidates;
    const unsigned count = best_first(keys, counts[row], candidates, selection);
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        box[i] = clip(boxes[class_anchor_of(selection.sorted[i]) % anchors]);
        overlaps[i] = dropped[i] = 0;
    }
    __syncthreads();
    // A tile of boxes at a time: find which boxes each worse box overlaps, then which of the tile stay, then what they
    // drop. A class gives no more than `detections`.
    unsigned kept_of_class = 0;
    for (unsigned tile = 0; tile < count && kept_of_class < detections; tile += TILE) {
        for (unsigned pair = threadIdx.x; pair < (count - tile) * TILE; pair += blockDim.x) {
            const unsigned bit = pair % TILE, better = tile + bit, worse = tile + pair / TILE;
            if (better >= worse || dropped[better] || dropped[worse]) continue;
            if (overlap(box[better], box[worse], iou_threshold)) atomicOr(&overlaps[worse], 1u << bit);
        }
        __syncthreads();
        unsigned stays = 0;  // a bit a box; every thread finds the same
        for (unsigned bit = 0; bit < TILE && tile + bit < count; bit++)
            if (!dropped[tile + bit] && !(overlaps[tile + bit] & stays)) {
                stays |= 1u << bit;
                kept_of_class++;
            }
        if (threadIdx.x < TILE && stays >> threadIdx.x & 1)
            kept[atomicAdd(&kept_counts[image], 1u)] = selection.sorted[tile + threadIdx.x];
        for (unsigned i = tile + TILE + threadIdx.x; i < count; i += blockDim.x) {
            if (overlaps[i] & stays) dropped[i] = 1;
            overlaps[i] = 0;
        }
        __syncthreads();
    }
}

// A block an image. Outputs [batch, detections, 4], [batch, detections], [batch, detections] and [batch]; zeros behind
// the last detection.
extern "C" __global__ void nms_merge(
    const float4* __restrict__ boxes, unsigned anchors, unsigned kept_capacity, unsigned detections,
    const unsigned* kept_counts, const Key* kept, float4* out_boxes, float* out_scores, int* out_labels, int* out_counts
) {
    const unsigned image = blockIdx.x;
    const Selection selection(shared_memory, detections);
    boxes += (Size)image * anchors;
    kept += (Size)image * kept_capacity;
    const unsigned count = best_first(kept, kept_counts[image], detections, selection);
    if (threadIdx.x == 0) out_counts[image] = (int)count;
    for (unsigned i = threadIdx.x; i < detections; i += blockDim.x) {
        const bool found = i < count;
        const Key key = found ? selection.sorted[i] : 0;
        const unsigned class_anchor = found ? class_anchor_of(key) : 0, out = image * detections + i;
        out_boxes[out] = found ? clip(boxes[class_anchor % anchors]) : make_float4(0, 0, 0, 0);
        out_scores[out] = score_of(key);
        out_labels[out] = (int)(class_anchor / anchors);
    }
}
