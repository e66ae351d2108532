// What runs on the GPU around the network: frames to its input (preprocess_*), its output to detections (nms_*).
//
// Compiled by NVRTC for the GPU at hand, and by g++ for tests without one (tests/fakes/cuda_shim.h); so there are no
// includes, warp functions always name all 32 lanes, and shared memory is dynamic only. Compute capability 7.5 will do.
// runtime/preprocess.py and runtime/nms.py are the references; where a fused multiply-add would round differently,
// arithmetic is spelled __fmul_rn and so on. The files of the same names in this folder put all of it on a stream.
//
// One file because NVRTC takes a single source.

typedef unsigned char Byte;
typedef unsigned long long Size;
typedef unsigned long long Key;

// ---------------------------------------------------------------------------------------------------------------------
// Preprocess: one thread per pixel of the model's input.
//
// A pixel of the input needs two neighbouring pixels of two rows of the frame: of BGR 6 bytes in each row; of YUV 2 of
// luma, and 4 of chroma with neighbours of its own. They are read as aligned words of 8 bytes: 6 bytes lie in one word at
// 3 of 8 alignments, else in two, so that takes 3.25 loads per pixel on average instead of 12 of single bytes. This
// matters most on a Jetson, whose GPU does not cache pinned memory, so that every load goes to memory. Where the cache
// helps it still saves load instructions, so there is one path for both.

// Up to 8 bytes as they were read. They are put together only when all reads are under way.
struct Bytes {
    Size low, high;
    int skipped;  // bytes of `low`

    __device__ Size value() const { return skipped == 0 ? low : low >> 8 * skipped | high << (64 - 8 * skipped); }
};

// A row of a frame's plane. Nothing outside of its bytes is read: they may be the last of the memory.
struct Row {
    const Byte* begin;
    int size;

    // `count` bytes, 8 at most, from `offset` on, the first the lowest of the value.
    __device__ Bytes read(int offset, int count) const {
        const Byte* first = begin + offset;
        const int skipped = (int)((Size)first % 8);
        const bool two = skipped + count > 8;
        if (skipped <= offset && offset - skipped + (two ? 16 : 8) <= size) {
            const Size* word = (const Size*)(first - skipped);
            return {__ldg(word), two ? __ldg(word + 1) : 0, skipped};
        }
        Bytes bytes = {0, 0, 0};  // at an end of the row
        #pragma unroll 1
        for (int i = 0; i < count; i++) bytes.low |= (Size)__ldg(first + i) << 8 * i;
        return bytes;
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

struct Pair {
    Size first, second;  // pixels of up to 3 bytes, in their lowest bits
};

// The pixels of two neighbours in a row, of so many bytes each; at the edges of the frame they are one.
__device__ Bytes read_pair(const Row& row, const Neighbours& columns, int bytes) {
    return row.read(bytes * columns.first, bytes * (columns.second - columns.first + 1));
}
__device__ Pair unpacked(const Bytes& read, const Neighbours& columns, int bytes) {
    const Size value = read.value();
    return {value, value >> 8 * bytes * (columns.second - columns.first)};
}

// Bits are dropped where OpenCV drops them (VResizeLinear for uint8 in its resize.cpp).
__device__ int blend(int top_left, int top_right, int bottom_left, int bottom_right, int right, int bottom) {
    const int top = top_left * (2048 - right) + top_right * right;
    const int low = bottom_left * (2048 - right) + bottom_right * right;
    return ((((2048 - bottom) * (top >> 4)) >> 16) + ((bottom * (low >> 4)) >> 16) + 2) >> 2;
}

// One byte of each pixel, the first the lowest.
__device__ int blend(int byte, const Pair& top, const Pair& bottom, const Neighbours& columns, const Neighbours& rows) {
    const int shift = 8 * byte;
    return blend(
        (int)(top.first >> shift & 255), (int)(top.second >> shift & 255), (int)(bottom.first >> shift & 255),
        (int)(bottom.second >> shift & 255), columns.weight, rows.weight
    );
}

// pixels: uint8 [frame_height, frame_width, 3] BGR, with rows a pitch (bytes) apart.
// out: uint8 [height, width, 3], RGB.
extern "C" __global__ void preprocess_bgr(
    const Byte* pixels, Size pitch, int frame_height, int frame_width, Byte* out, int height, int width
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Neighbours columns = neighbours(x, width, frame_width), rows = neighbours(y, height, frame_height);
    const Bytes upper = read_pair(Row{pixels + rows.first * pitch, 3 * frame_width}, columns, 3);
    const Bytes lower = read_pair(Row{pixels + rows.second * pitch, 3 * frame_width}, columns, 3);
    const Pair top = unpacked(upper, columns, 3), bottom = unpacked(lower, columns, 3);
    out += 3 * (y * width + x);
    for (int channel = 0; channel < 3; channel++) out[channel] = (Byte)blend(2 - channel, top, bottom, columns, rows);
}

// How YUV becomes RGB, in fixed point with 20 bits behind the point, as OpenCV has it:
// r = luma_scale * (y - black) + v_to_r * (v - 128), and so on.
struct Colours {
    int black, luma_scale, u_to_b, u_to_g, v_to_g, v_to_r;

    __device__ static Size rounded(int value) { return (Size)min(max((value + (1 << 19)) >> 20, 0), 255); }

    // BGR in the lowest bytes, of a luma and of u and v in the lowest bytes.
    __device__ Size bgr(Size luma, Size uv) const {
        const int l = luma_scale * max((int)(luma & 255) - black, 0);
        const int u = (int)(uv & 255) - 128, v = (int)(uv >> 8 & 255) - 128;
        return rounded(l + u_to_b * u) | rounded(l + u_to_g * u + v_to_g * v) << 8 | rounded(l + v_to_r * v) << 16;
    }
    __device__ Pair bgr(const Pair& luma, const Pair& uv) const {
        return {bgr(luma.first, uv.first), bgr(luma.second, uv.second)};
    }
};

// The samples of chroma that two pixels along an axis have: the pixel's own, or one for two pixels.
__device__ Neighbours of_chroma(const Neighbours& pixels, int frame_size, int chroma_size) {
    const int shift = chroma_size < frame_size;
    return {pixels.first >> shift, pixels.second >> shift, pixels.weight};
}

// The four neighbours of a pixel become BGR, and then are blended: the same as from a frame in BGR.
// luma: uint8 [frame_height, frame_width]. chroma: uint8 [chroma_height, chroma_width, 2], u and v in turns, of the same
// picture: as many samples as luma has, or half as many rounded up, in each direction.
extern "C" __global__ void preprocess_yuv(
    const Byte* luma, Size luma_pitch, int frame_height, int frame_width, const Byte* chroma, Size chroma_pitch,
    int chroma_height, int chroma_width, int black, int luma_scale, int u_to_b, int u_to_g, int v_to_g, int v_to_r,
    Byte* out, int height, int width
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;
    const Colours colours = {black, luma_scale, u_to_b, u_to_g, v_to_g, v_to_r};
    const Neighbours columns = neighbours(x, width, frame_width), rows = neighbours(y, height, frame_height);
    const Neighbours uv_columns = of_chroma(columns, frame_width, chroma_width);
    const Neighbours uv_rows = of_chroma(rows, frame_height, chroma_height);
    const Bytes upper = read_pair(Row{luma + rows.first * luma_pitch, frame_width}, columns, 1);
    const Bytes lower = read_pair(Row{luma + rows.second * luma_pitch, frame_width}, columns, 1);
    const Bytes uv_upper = read_pair(Row{chroma + uv_rows.first * chroma_pitch, 2 * chroma_width}, uv_columns, 2);
    const Bytes uv_lower = read_pair(Row{chroma + uv_rows.second * chroma_pitch, 2 * chroma_width}, uv_columns, 2);
    const Pair top = colours.bgr(unpacked(upper, columns, 1), unpacked(uv_upper, uv_columns, 2));
    const Pair bottom = colours.bgr(unpacked(lower, columns, 1), unpacked(uv_lower, uv_columns, 2));
    out += 3 * (y * width + x);
    for (int channel = 0; channel < 3; channel++) out[channel] = (Byte)blend(2 - channel, top, bottom, columns, rows);
}

// ---------------------------------------------------------------------------------------------------------------------
// NMS in three kernels: collect the scores above the threshold by class; of each class take the best and suppress; of
// what all classes keep take the best.
//
// A score travels as a key that orders as the contract does, the best the largest: the bits of the score, which is
// above 0, then the complement of class * anchors + anchor. No two keys are equal, so that what is selected and how it
// is sorted never depend on the order in which atomics put keys into a list. No key is 0, which stands for none.
//
// What it costs, by reasoning and not by measurement, for SSD300 with 90 classes (8732 anchors, 400 candidates, 200
// detections, one image):
// - nms_collect reads 3.1 MB of scores, less than a microsecond of an H200's memory and 15 of an AGX Orin's. A thread
//   reads four at once. The four atomics that a thread may need are under way together, one for all lanes of a class.
// - nms_suppress is a block a class: what counts is the longest block. Its serial steps are three dependent reads (the
//   count, the keys, the boxes), a sort, and two barriers for every 32 candidates that are not all dropped yet. The
//   work grows with kept * candidates, not with candidates².
// - nms_merge is one block an image and reads up to 18,000 keys (classes * min(candidates, detections)), 144 KB, a few
//   times over: mostly two or three digits settle a selection among scores that differ. So it has more threads, each
//   with four reads under way, and the first-level cache serves all passes but the first.

const unsigned WARP = 32;
const unsigned ALL = 0xFFFFFFFF;  // lanes

__device__ Key make_key(float score, unsigned class_anchor) {
    return (Key)__float_as_uint(score) << 32 | (unsigned)~class_anchor;
}
__device__ float score_of(Key key) { return __uint_as_float((unsigned)(key >> 32)); }
__device__ unsigned class_anchor_of(Key key) { return ~(unsigned)key; }

// To the image. No box with a NaN gets here.
__device__ float clip(float value, float low, float high) { return value < low ? low : value > high ? high : value; }
__device__ float4 clip(float4 box, float low = 0, float high = 1) {
    return make_float4(clip(box.x, low, high), clip(box.y, low, high), clip(box.z, low, high), clip(box.w, low, high));
}

const int QUAD = 4;  // scores that a thread reads at once, at an address that is a multiple of 16

// A grid [blocks, batch] walks the scores in the order of memory.
//   boxes [batch, anchors, 4], scores [batch, anchors, classes]; counts [batch, classes], zero before;
//   keys [batch, classes, anchors], of which the first `counts` of a class are set.
extern "C" __global__ void __launch_bounds__(1024) nms_collect(
    const float4* __restrict__ boxes, const float* __restrict__ scores, unsigned anchors, unsigned classes,
    float score_threshold, unsigned* counts, Key* keys
) {
    const unsigned image = blockIdx.y, size = anchors * classes, lane = threadIdx.x % WARP;
    boxes += (Size)image * anchors;
    scores += (Size)image * size;
    counts += image * classes;
    keys += (Size)image * size;
    const unsigned before = (unsigned)((Size)scores / sizeof(float) % QUAD);  // of the first quad, not of this image
    const unsigned quads = (before + size + QUAD - 1) / QUAD;
    // A warp goes on as long as one of its lanes has a quad.
    for (unsigned quad = blockIdx.x * blockDim.x + threadIdx.x; quad - lane < quads; quad += gridDim.x * blockDim.x) {
        const unsigned first = QUAD * quad - before;  // may be "below 0": such an index is not below size
        float score[QUAD];
        if (first < size && first + QUAD <= size) {
            const float4 four = __ldg((const float4*)(scores + first));
            score[0] = four.x, score[1] = four.y, score[2] = four.z, score[3] = four.w;
        } else {
            for (int k = 0; k < QUAD; k++) score[k] = first + k < size ? __ldg(scores + (first + k)) : 0;
        }
        Key key[QUAD];
        unsigned label[QUAD], lanes[QUAD], position[QUAD] = {};
        bool any = false;
        for (int k = 0; k < QUAD; k++) {
            key[k] = 0;
            label[k] = classes;  // of no key
            if (!(score[k] > score_threshold)) continue;  // a NaN is not
            const unsigned anchor = (first + k) / classes;
            const float4 box = __ldg(boxes + anchor);
            if (box.x != box.x || box.y != box.y || box.z != box.z || box.w != box.w) continue;
            label[k] = (first + k) % classes;
            key[k] = make_key(score[k], label[k] * anchors + anchor);
            any = true;
        }
        if (!__any_sync(ALL, any)) continue;
        for (int k = 0; k < QUAD; k++) {
            lanes[k] = __match_any_sync(ALL, label[k]);
            const bool first_lane = lane == __ffs(lanes[k]) - 1;
            if (key[k] != 0 && first_lane) position[k] = atomicAdd(&counts[label[k]], (unsigned)__popc(lanes[k]));
        }
        for (int k = 0; k < QUAD; k++) {
            const unsigned start = __shfl_sync(ALL, position[k], __ffs(lanes[k]) - 1);
            const unsigned rank = __popc(lanes[k] & ((1u << lane) - 1));
            if (key[k] != 0) keys[label[k] * anchors + start + rank] = key[k];
        }
    }
}

const int DIGIT_BITS = 9;  // 7 digits for the 63 bits of a key; the first has the score's exponent
const unsigned DIGITS = 1 << DIGIT_BITS;

// Shared memory in which a block finds the best keys of a list, of `limit` each, a multiple of WARP.
struct Selection {
    Key* unsorted;
    Key* sorted;
    unsigned* histograms;  // [2, DIGITS]
    unsigned* found;       // [3]: digit, keys wanted of that digit, all of that digit are wanted
    unsigned* taken;       // keys so far

    __device__ Selection(float4* shared, unsigned limit)
        : unsorted((Key*)shared), sorted(unsorted + limit), histograms((unsigned*)(sorted + limit)),
          found(histograms + 2 * DIGITS), taken(found + 3) {}
    __device__ float4* end() const { return (float4*)(taken + 1); }
};

__device__ unsigned whole_warps(unsigned count) { return (count + WARP - 1) / WARP * WARP; }

const int READS = 4;  // that a thread has under way at once

// visit(key) for each of a list, and visit(0) until every thread has visited as many: warp functions may be called.
template <typename Visit>
__device__ void for_each_key(const Key* __restrict__ keys, unsigned count, Visit visit) {
    for (unsigned start = 0; start < count; start += READS * blockDim.x) {
        Key read[READS];
        for (int k = 0; k < READS; k++) {
            const unsigned i = start + k * blockDim.x + threadIdx.x;
            read[k] = i < count ? keys[i] : 0;
        }
        for (int k = 0; k < READS; k++) visit(read[k]);
    }
}

// The sum over this lane's value and those of higher lanes.
__device__ unsigned suffix_sum(unsigned value) {
    const unsigned lane = threadIdx.x % WARP;
    for (unsigned lanes = 1; lanes < WARP; lanes *= 2) {
        const unsigned other = __shfl_down_sync(ALL, value, lanes);
        if (lane + lanes < WARP) value += other;
    }
    return value;
}

// The last lane whose value is at least `least`; there is one.
__device__ unsigned last_lane(unsigned value, unsigned least) {
    return WARP - 1 - __clz(__ballot_sync(ALL, value >= least));
}

// By one warp: the digit of the key that is the `wanted`th best by this digit, into shared.found.
__device__ void find_digit(const unsigned* histogram, unsigned wanted, const Selection& shared) {
    const unsigned lane = threadIdx.x % WARP, width = DIGITS / WARP;
    unsigned keys = 0;  // of as many digits as `width`; lanes read different banks
    for (unsigned k = 0; k < width; k++) keys += histogram[width * lane + (k + lane) % width];
    const unsigned groups = suffix_sum(keys);
    const unsigned group = last_lane(groups, wanted);
    const unsigned above_group = group + 1 < WARP ? __shfl_sync(ALL, groups, group + 1) : 0;
    const unsigned digits = above_group + suffix_sum(lane < width ? histogram[width * group + lane] : 0);
    const unsigned digit = last_lane(digits, wanted);
    const unsigned reached = __shfl_sync(ALL, digits, digit), above = __shfl_sync(ALL, digits, digit + 1);
    if (lane == 0) {
        shared.found[0] = width * group + digit;
        shared.found[1] = wanted - above;
        shared.found[2] = reached == wanted;
    }
}

// The least of the best `wanted` of `count` keys, wanted < count: radix select, from the highest digit down.
__device__ Key least_wanted(const Key* keys, unsigned count, unsigned wanted, const Selection& shared) {
    unsigned *histogram = shared.histograms, *next = histogram + DIGITS;
    for (unsigned digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) histogram[digit] = 0;
    __syncthreads();
    Key prefix = 0;  // the digits so far of the key that is looked for
    for (int shift = 63 - DIGIT_BITS;; shift -= DIGIT_BITS) {
        // Lanes that add 1 to the same word of shared memory do so in one instruction (ATOMS.POPC.INC).
        for_each_key(keys, count, [=](Key key) {
            const Key digits = key >> shift;
            if (key != 0 && digits >> DIGIT_BITS == prefix) atomicAdd(&histogram[digits % DIGITS], 1u);
        });
        __syncthreads();
        for (unsigned digit = threadIdx.x; digit < DIGITS; digit += blockDim.x) next[digit] = 0;
        if (threadIdx.x < WARP) find_digit(histogram, wanted, shared);
        __syncthreads();
        prefix = prefix << DIGIT_BITS | shared.found[0];
        wanted = shared.found[1];
        if (shared.found[2]) return prefix << shift;  // at the latest with the last digit: no two keys are equal
        unsigned* const used = histogram;
        histogram = next;
        next = used;
    }
}

// Put 32 keys, one a lane, in order: the best in lane 0. A bitonic network.
__device__ Key sorted_in_warp(Key key) {
    const unsigned lane = threadIdx.x % WARP;
    for (unsigned size = 2; size <= WARP; size *= 2)
        for (unsigned stride = size / 2; stride > 0; stride /= 2) {
            const Key other = __shfl_xor_sync(ALL, key, stride);
            const bool lower = !(lane & stride), falling = !(lane & size) || size == WARP;
            if ((key < other) == (lower == falling)) key = other;
        }
    return key;
}

// How many of 32 keys, best first, are better than a key.
__device__ unsigned better_than(const Key* run, Key key) {
    unsigned count = 0;
    for (unsigned step = WARP / 2; step > 0; step /= 2)
        if (run[count + step - 1] > key) count += step;
    return count + (run[count] > key);
}

// The best `limit` of `count` keys into shared.sorted, best first; how many there are.
__device__ unsigned best_first(const Key* keys, unsigned count, unsigned limit, const Selection& shared) {
    const unsigned lane = threadIdx.x % WARP;
    const Key least = count > limit ? least_wanted(keys, count, limit, shared) : 1;
    unsigned* taken = shared.taken;
    if (threadIdx.x == 0) *taken = 0;
    __syncthreads();
    for_each_key(keys, count, [=](Key key) {
        const unsigned lanes = __ballot_sync(ALL, key >= least);
        if (lanes == 0) return;
        unsigned start = 0;
        if (lane == 0) start = atomicAdd(taken, (unsigned)__popc(lanes));
        start = __shfl_sync(ALL, start, 0);
        if (key >= least) shared.unsorted[start + __popc(lanes & ((1u << lane) - 1))] = key;
    });
    __syncthreads();
    count = min(count, limit);
    const unsigned padded = whole_warps(count);
    // Runs of 32 are sorted by a warp each; a key's place is the sum of its places in all runs.
    for (unsigned i = threadIdx.x; i < padded; i += blockDim.x)
        shared.unsorted[i] = sorted_in_warp(i < count ? shared.unsorted[i] : 0);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        const Key key = shared.unsorted[i];
        unsigned rank = i % WARP;
        for (unsigned run = 0; run < padded; run += WARP)
            if (run != i / WARP * WARP) rank += better_than(shared.unsorted + run, key);
        shared.sorted[rank] = key;
    }
    __syncthreads();
    return count;
}

__device__ float area(float4 box) { return __fmul_rn(__fsub_rn(box.z, box.x), __fsub_rn(box.w, box.y)); }

__device__ bool overlap(float4 a, float4 b, float iou_threshold, float iou_epsilon) {
    const float width = max(__fsub_rn(min(a.z, b.z), max(a.x, b.x)), 0.0f);
    const float height = max(__fsub_rn(min(a.w, b.w), max(a.y, b.y)), 0.0f);
    const float intersection = __fmul_rn(width, height);
    if (!(intersection > 0)) return false;  // most pairs; the thresholds are not below 0
    const float both = __fadd_rn(__fsub_rn(__fadd_rn(area(a), area(b)), intersection), iou_epsilon);
    return __fdiv_rn(intersection, both) > iou_threshold;
}

extern __shared__ float4 shared_memory[];

// A block a class and image: grid [classes, batch].
//   low, high: what corners are limited to before boxes are compared.
//   counts, keys: of nms_collect; kept_counts [batch], zero before;
//   kept [batch, kept_capacity], of which the first `kept_counts` of an image are set.
// Shared memory: nms.py, `Nms`.
extern "C" __global__ void __launch_bounds__(1024) nms_suppress(
    const float4* __restrict__ boxes, unsigned anchors, unsigned candidates, unsigned kept_capacity,
    unsigned detections, float iou_threshold, float iou_epsilon, float low, float high, const unsigned* counts,
    const Key* keys, unsigned* kept_counts, Key* kept
) {
    const unsigned label = blockIdx.x, classes = gridDim.x, image = blockIdx.y, row = image * classes + label;
    const unsigned lane = threadIdx.x % WARP;
    const Selection selection(shared_memory, whole_warps(candidates));
    float4* box = selection.end();                      // [candidates], best first
    unsigned* dropped = (unsigned*)(box + candidates);  // [candidates]
    unsigned* overlaps = dropped + candidates;          // [WARP]: with which boxes of the tile one of the tile overlaps
    Key* chosen = selection.unsorted;                   // what the class keeps, best first
    boxes += (Size)image * anchors;
    keys += (Size)row * anchors;
    kept += (Size)image * kept_capacity;
    const unsigned count = best_first(keys, counts[row], candidates, selection);
    for (unsigned i = threadIdx.x; i < count; i += blockDim.x) {
        box[i] = clip(boxes[class_anchor_of(selection.sorted[i]) % anchors], low, high);
        dropped[i] = 0;
    }
    __syncthreads();
    // A tile of boxes at a time, one a lane: find which of the tile stay, then which worse ones those drop. A class
    // keeps at most `detections`.
    unsigned kept_of_class = 0;
    for (unsigned tile = 0; tile < count && kept_of_class < detections; tile += WARP) {
        const bool open = tile + lane < count && !dropped[tile + lane];
        unsigned stays = __ballot_sync(ALL, open);
        if (stays == 0) continue;
        const float4 mine = open ? box[tile + lane] : make_float4(0, 0, 0, 0);
        for (unsigned worse = threadIdx.x / WARP; worse < WARP; worse += blockDim.x / WARP) {
            if (!(stays >> worse & 1)) continue;
            const bool over = open && lane < worse && overlap(mine, box[tile + worse], iou_threshold, iou_epsilon);
            const unsigned bits = __ballot_sync(ALL, over);
            if (lane == 0) overlaps[worse] = bits;
        }
        __syncthreads();
        // One stays unless a better one that stays overlaps it. Starting from "all stay", applying that to all at once
        // settles: after n rounds the first n are final. Every warp does the same.
        const unsigned mine_overlaps = open ? overlaps[lane] : 0;
        for (;;) {
            const unsigned settled = __ballot_sync(ALL, open && !(mine_overlaps & stays));
            if (settled == stays) break;
            stays = settled;
        }
        if (threadIdx.x < WARP && stays >> lane & 1)
            chosen[kept_of_class + __popc(stays & ((1u << lane) - 1))] = selection.sorted[tile + lane];
        for (unsigned i = tile + WARP + threadIdx.x; i < count; i += blockDim.x) {
            bool drop = dropped[i];
            for (unsigned left = stays; left != 0 && !drop; left &= left - 1)
                drop = overlap(box[tile + __ffs(left) - 1], box[i], iou_threshold, iou_epsilon);
            dropped[i] = drop;
        }
        kept_of_class += __popc(stays);
        __syncthreads();
    }
    kept_of_class = min(kept_of_class, detections);
    if (threadIdx.x == 0) *selection.taken = atomicAdd(&kept_counts[image], kept_of_class);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < kept_of_class; i += blockDim.x) kept[*selection.taken + i] = chosen[i];
}

// A block an image. Outputs [batch, detections, 4], [batch, detections], [batch, detections] and [batch]; zeros behind
// the last detection.
extern "C" __global__ void __launch_bounds__(1024) nms_merge(
    const float4* __restrict__ boxes, unsigned anchors, unsigned kept_capacity, unsigned detections,
    const unsigned* kept_counts, const Key* kept, float4* out_boxes, float* out_scores, int* out_labels, int* out_counts
) {
    const unsigned image = blockIdx.x;
    const Selection selection(shared_memory, whole_warps(detections));
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
