"""Rows of two data sets, as they are there.

HUMANEVAL: openai/human-eval, MIT licence, Copyright (c) OpenAI. MBPP: google-research/google-research, "Mostly Basic
Python Problems" by Austin et al. (2108.07732), CC-BY-4.0.
"""

HUMANEVAL = [
    {
        "task_id": "HumanEval/13",
        "prompt": "\n"
        "\n"
        "def greatest_common_divisor(a: int, b: int) -> int:\n"
        '    """ Return a greatest common divisor of two integers a and b\n'
        "    >>> greatest_common_divisor(3, 5)\n"
        "    1\n"
        "    >>> greatest_common_divisor(25, 15)\n"
        "    5\n"
        '    """\n',
        "entry_point": "greatest_common_divisor",
        "canonical_solution": "    while b:\n        a, b = b, a % b\n    return a\n",
        "test": "\n"
        "\n"
        "METADATA = {\n"
        "    'author': 'jt',\n"
        "    'dataset': 'test'\n"
        "}\n"
        "\n"
        "\n"
        "def check(candidate):\n"
        "    assert candidate(3, 7) == 1\n"
        "    assert candidate(10, 15) == 5\n"
        "    assert candidate(49, 14) == 7\n"
        "    assert candidate(144, 60) == 12\n",
    },
    {
        "task_id": "HumanEval/38",
        "prompt": "\n"
        "\n"
        "def encode_cyclic(s: str):\n"
        '    """\n'
        "    returns encoded string by cycling groups of three characters.\n"
        '    """\n'
        "    # split string to groups. Each of length 3.\n"
        "    groups = [s[(3 * i):min((3 * i + 3), len(s))] for i in range((len(s) + 2) // 3)]\n"
        "    # cycle elements in each group. Unless group has fewer elements than 3.\n"
        "    groups = [(group[1:] + group[0]) if len(group) == 3 else group for group in groups]\n"
        '    return "".join(groups)\n'
        "\n"
        "\n"
        "def decode_cyclic(s: str):\n"
        '    """\n'
        "    takes as input string encoded with encode_cyclic function. Returns decoded string.\n"
        '    """\n',
        "entry_point": "decode_cyclic",
        "canonical_solution": "    return encode_cyclic(encode_cyclic(s))\n",
        "test": "\n"
        "\n"
        "METADATA = {}\n"
        "\n"
        "\n"
        "def check(candidate):\n"
        "    from random import randint, choice\n"
        "    import string\n"
        "\n"
        "    letters = string.ascii_lowercase\n"
        "    for _ in range(100):\n"
        "        str = ''.join(choice(letters) for i in range(randint(10, 20)))\n"
        "        encoded_str = encode_cyclic(str)\n"
        "        assert candidate(encoded_str) == str\n"
        "\n",
    },
]

MBPP = [
    {
        "text": "Write a function to find the similar elements from the given two tuple lists.",
        "code": "def similar_elements(test_tup1, test_tup2):\r\n"
        "  res = tuple(set(test_tup1) & set(test_tup2))\r\n"
        "  return (res) ",
        "task_id": 2,
        "test_setup_code": "",
        "test_list": [
            "assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)",
            "assert similar_elements((1, 2, 3, 4),(5, 4, 3, 7)) == (3, 4)",
            "assert similar_elements((11, 12, 14, 13),(17, 15, 14, 13)) == (13, 14)",
        ],
        "challenge_test_list": [],
    },
    {
        "text": "Write a python function to find the sum of common divisors of two given numbers.",
        "code": "def sum(a,b): \r\n"
        "    sum = 0\r\n"
        "    for i in range (1,min(a,b)): \r\n"
        "        if (a % i == 0 and b % i == 0): \r\n"
        "            sum += i \r\n"
        "    return sum",
        "task_id": 126,
        "test_setup_code": "",
        "test_list": ["assert sum(10,15) == 6", "assert sum(100,150) == 93", "assert sum(4,6) == 3"],
        "challenge_test_list": [],
    },
    {
        "text": "Write a function to calculate the height of the given binary tree.",
        "code": "class Node: \r\n"
        "\tdef __init__(self, data): \r\n"
        "\t\tself.data = data \r\n"
        "\t\tself.left = None\r\n"
        "\t\tself.right = None\r\n"
        "def max_height(node): \r\n"
        "\tif node is None: \r\n"
        "\t\treturn 0 ; \r\n"
        "\telse : \r\n"
        "\t\tleft_height = max_height(node.left) \r\n"
        "\t\tright_height = max_height(node.right) \r\n"
        "\t\tif (left_height > right_height): \r\n"
        "\t\t\treturn left_height+1\r\n"
        "\t\telse: \r\n"
        "\t\t\treturn right_height+1",
        "task_id": 927,
        "test_setup_code": "root = Node(1) \r\n"
        "root.left = Node(2) \r\n"
        "root.right = Node(3) \r\n"
        "root.left.left = Node(4) \r\n"
        "root.left.right = Node(5) \r\n"
        "root1 = Node(1);  \r\n"
        "root1.left = Node(2);  \r\n"
        "root1.right = Node(3);  \r\n"
        "root1.left.left = Node(4);  \r\n"
        "root1.right.left = Node(5);  \r\n"
        "root1.right.right = Node(6);  \r\n"
        "root1.right.right.right= Node(7);  \r\n"
        "root1.right.right.right.right = Node(8)\r\n"
        "root2 = Node(1) \r\n"
        "root2.left = Node(2) \r\n"
        "root2.right = Node(3) \r\n"
        "root2.left.left = Node(4) \r\n"
        "root2.left.right = Node(5)\r\n"
        "root2.left.left.left = Node(6)\r\n"
        "root2.left.left.right = Node(7)",
        "test_list": [
            "assert (max_height(root)) == 3",
            "assert (max_height(root1)) == 5 ",
            "assert (max_height(root2)) == 4",
        ],
        "challenge_test_list": [],
    },
]
