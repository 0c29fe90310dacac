"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) in plain NumPy float64, as the tests' reference.

It is one net with `groups=2`: the maps of the two towers (GPUs) lie side by side on the last axis,
tower 0 first. Every function follows a formula of the paper as directly as possible; none is fast.
Letters: B images, H W rows and columns, C maps, I inputs, O outputs, N units, K classes,
Y X rows and columns inside a window, T towers.
"""

import numpy as np

Array = np.ndarray
Layers = dict[str, dict[str, Array]]
Padding = tuple[tuple[int, int], tuple[int, int]]


def float64(x: Array) -> Array:
    """Converts an array to float64."""
    return np.asarray(x, np.float64)


def windows(x_BHWC: Array, rows: int, columns: int, stride: int) -> Array:
    """Returns the windows that lie inside the maps, `stride` pixels apart: B H W C Y X."""
    views = np.lib.stride_tricks.sliding_window_view(x_BHWC, (rows, columns), axis=(1, 2))
    return views[:, ::stride, ::stride]


def convolution(
    x_BHWC: Array, kernel_HWIO: Array, bias_O: Array, stride: int, padding: Padding, groups: int
) -> Array:
    """Computes b_o + sum_{y,x,i} k_{y,x,i,o} x_i, i over the maps of o's group (§3.2, §3.5)."""
    rows, columns, inputs, _ = kernel_HWIO.shape
    assert x_BHWC.shape[-1] == groups * inputs, (x_BHWC.shape, kernel_HWIO.shape, groups)
    x_BHWC = np.pad(float64(x_BHWC), ((0, 0), *padding, (0, 0)))
    y_GBHWO = []
    kernel_GHWIO = np.split(float64(kernel_HWIO), groups, axis=-1)
    for x, kernel in zip(np.split(x_BHWC, groups, axis=-1), kernel_GHWIO, strict=False):
        patches_BHWIYX = windows(x, rows, columns, stride)
        y_GBHWO.append(np.tensordot(patches_BHWIYX, kernel, ((3, 4, 5), (2, 0, 1))))
    return np.concatenate(y_GBHWO, axis=-1) + float64(bias_O)


def neighbours(i: int, maps: int, size: int, groups: int) -> range:
    """Returns the `size` maps from i - size//2 on, clipped at the edges of the group of map i."""
    group_size = maps // groups
    first = i // group_size * group_size
    start = i - size // 2
    return range(max(start, first), min(start + size, first + group_size))


def response_scale(x_BHWC: Array, size: int, k: float, alpha: float, groups: int) -> Array:
    """Computes S_i = k + alpha sum_{j in window(i)} x_j^2 (§3.3); alpha is not divided by size."""
    maps = x_BHWC.shape[-1]
    near_C = [x_BHWC[..., list(neighbours(i, maps, size, groups))] for i in range(maps)]
    return k + alpha * np.stack([np.sum(x**2, axis=-1) for x in near_C], axis=-1)


def response_normalization(
    x_BHWC: Array, size: int, k: float, alpha: float, beta: float, groups: int
) -> Array:
    """Computes y_i = x_i S_i^-beta (§3.3), for each tower over its own maps."""
    x_BHWC = float64(x_BHWC)
    return x_BHWC * response_scale(x_BHWC, size, k, alpha, groups) ** -beta


def response_normalization_vjp(
    x_BHWC: Array,
    cotangent_BHWC: Array,
    size: int,
    k: float,
    alpha: float,
    beta: float,
    groups: int,
) -> Array:
    """Computes g_j = sum_i c_i dy_i/dx_j for the formula of §3.3.

    dy_i/dx_j = delta_ij S_i^-beta - 2 alpha beta x_i x_j S_i^(-beta-1) for j in window(i), else 0.
    """
    x_BHWC, cotangent_BHWC = float64(x_BHWC), float64(cotangent_BHWC)
    scale_BHWC = response_scale(x_BHWC, size, k, alpha, groups)
    gradient_BHWC = np.zeros_like(x_BHWC)
    for i in range(x_BHWC.shape[-1]):
        x_i, scale_i = x_BHWC[..., i], scale_BHWC[..., i]
        for j in neighbours(i, x_BHWC.shape[-1], size, groups):
            jacobian = (i == j) * scale_i**-beta
            jacobian -= 2 * alpha * beta * x_i * x_BHWC[..., j] * scale_i ** (-beta - 1)
            gradient_BHWC[..., j] += cotangent_BHWC[..., i] * jacobian
    return gradient_BHWC


def max_pooling(x_BHWC: Array, window: int, stride: int) -> Array:
    """Computes the maxima of z x z windows, s apart (§3.4: z = 3, s = 2), inside the maps."""
    return windows(float64(x_BHWC), window, window, stride).max(axis=(-2, -1))


def max_pooling_vjp(x_BHWC: Array, cotangent_BHWC: Array, window: int, stride: int) -> Array:
    """Gives each cotangent to the first maximum of its window (§3.4), in row-major order."""
    x_BHWC, cotangent_BHWC = float64(x_BHWC), float64(cotangent_BHWC)
    gradient_BHWC = np.zeros_like(x_BHWC)
    for b, row, column, c in np.ndindex(*cotangent_BHWC.shape):
        top, left = row * stride, column * stride
        patch_YX = x_BHWC[b, top : top + window, left : left + window, c]
        y, x = divmod(int(np.argmax(patch_YX)), window)
        gradient_BHWC[b, top + y, left + x, c] += cotangent_BHWC[b, row, column, c]
    return gradient_BHWC


def relu(x: Array) -> Array:
    """Computes f(x) = max(0, x) (§3.1)."""
    return np.maximum(float64(x), 0.0)


def dense(x_BI: Array, kernel_IO: Array, bias_O: Array) -> Array:
    """Computes y = x W + b, a fully-connected layer (§3.5)."""
    return float64(x_BI) @ float64(kernel_IO) + float64(bias_O)


def flatten(x_BHWC: Array, groups: int) -> Array:
    """Returns the units of tower 0 in (H, W, C) order, then those of tower 1."""
    towers = np.split(x_BHWC, groups, axis=-1)
    return np.concatenate([tower.reshape(len(tower), -1) for tower in towers], axis=1)


def overhang(pixels: int, window: int = 11, stride: int = 4) -> tuple[int, int]:
    """Returns the zeros (before, after) for ceil((pixels - window) / stride) + 1 windows.

    224 pixels give 55 windows.
    """
    steps = -(-(pixels - window) // stride)
    return 0, steps * stride + window - pixels


def alexnet(
    params: Layers,
    images_BHWC: Array,
    groups: int = 2,
    size: int = 5,
    k: float = 2.0,
    alpha: float = 1e-4,
    beta: float = 0.75,
    pool: tuple[int, int] = (3, 2),
) -> dict[str, Array]:
    """Computes the net of §3.5 at test time (§4.2), and returns every activation by name.

    'conv1' ... 'fc7' are before the ReLU, 'relu1' ... 'relu7' after it; 'norm1', 'norm2';
    'pool1', 'pool2', 'pool5'; 'flat'; 'half6', 'half7' are 0.5 relu; 'logits'.
    """
    a = {}
    one, two = ((1, 1), (1, 1)), ((2, 2), (2, 2))
    edge = (overhang(images_BHWC.shape[1]), overhang(images_BHWC.shape[2]))

    def conv(layer: int, x_BHWC: Array, stride: int, padding: Padding, groups: int) -> Array:
        kernel, bias = params[f'conv{layer}']['kernel'], params[f'conv{layer}']['bias']
        a[f'conv{layer}'] = convolution(x_BHWC, kernel, bias, stride, padding, groups)
        a[f'relu{layer}'] = relu(a[f'conv{layer}'])
        return a[f'relu{layer}']

    def norm_pool(layer: int, x_BHWC: Array) -> Array:
        a[f'norm{layer}'] = response_normalization(x_BHWC, size, k, alpha, beta, groups)
        a[f'pool{layer}'] = max_pooling(a[f'norm{layer}'], *pool)
        return a[f'pool{layer}']

    def hidden(layer: int, x_BN: Array) -> Array:
        a[f'fc{layer}'] = dense(x_BN, params[f'fc{layer}']['kernel'], params[f'fc{layer}']['bias'])
        a[f'relu{layer}'] = relu(a[f'fc{layer}'])
        a[f'half{layer}'] = 0.5 * a[f'relu{layer}']
        return a[f'half{layer}']

    x = norm_pool(1, conv(1, images_BHWC, 4, edge, 1))  # both towers see the image
    x = norm_pool(2, conv(2, x, 1, two, groups))
    x = conv(3, x, 1, one, 1)  # connected to the maps of both towers
    x = conv(5, conv(4, x, 1, one, groups), 1, one, groups)
    a['pool5'] = max_pooling(x, *pool)
    a['flat'] = flatten(a['pool5'], groups)
    x = hidden(7, hidden(6, a['flat']))
    a['logits'] = dense(x, params['fc8']['kernel'], params['fc8']['bias'])
    return a


def grouped_params(tower_params: Layers) -> Layers:
    """Puts the towers, stacked on T, side by side on the outputs (§3.2); in fc8, on the inputs."""
    params = {}
    for name, layer in tower_params.items():
        kernel_T, bias = float64(layer['kernel']), float64(layer['bias'])
        axis, bias = (0, bias) if name == 'fc8' else (-1, np.concatenate(bias))
        params[name] = {'kernel': np.concatenate(kernel_T, axis), 'bias': bias}
    return params


def momentum_step(
    weight: Array,
    velocity: Array,
    gradient: Array,
    rate: float,
    momentum: float = 0.9,
    weight_decay: float = 0.0005,
) -> tuple[Array, Array]:
    """Computes v <- 0.9 v - 0.0005 eps w - eps g, then w <- w + v (§5), and returns (w, v)."""
    weight, velocity, gradient = float64(weight), float64(velocity), float64(gradient)
    velocity = momentum * velocity - weight_decay * rate * weight - rate * gradient
    return weight + velocity, velocity
