"""The words and numbers that fill the slots of the demo corpus, in German, Chinese and English.

Columns of one table run in parallel: the same row means the same thing in every language. Read by
`sentences.py` tables only through their slot names; `corpus.py` turns them into lists.
"""

# One row, one line.
# fmt: off
# Gender (m, f, n), German, Chinese, English. Singular nouns only, so that one verb form fits all.
PRODUCTS: tuple[tuple[str, str, str, str], ...] = (
    ("m", "Wasserkocher", "电热水壶", "kettle"),
    ("f", "Kaffeemaschine", "咖啡机", "coffee machine"),
    ("m", "Toaster", "烤面包机", "toaster"),
    ("m", "Staubsauger", "吸尘器", "vacuum cleaner"),
    ("f", "Waschmaschine", "洗衣机", "washing machine"),
    ("m", "Kühlschrank", "冰箱", "fridge"),
    ("f", "Mikrowelle", "微波炉", "microwave"),
    ("m", "Mixer", "搅拌机", "blender"),
    ("m", "Fernseher", "电视机", "television"),
    ("m", "Drucker", "打印机", "printer"),
    ("m", "Laptop", "笔记本电脑", "laptop"),
    ("m", "Bildschirm", "显示器", "monitor"),
    ("f", "Tastatur", "键盘", "keyboard"),
    ("m", "Kopfhörer", "耳机", "headset"),
    ("m", "Lautsprecher", "音箱", "speaker"),
    ("f", "Kamera", "相机", "camera"),
    ("n", "Telefon", "电话机", "telephone"),
    ("n", "Tablet", "平板电脑", "tablet"),
    ("m", "Router", "路由器", "router"),
    ("n", "Ladegerät", "充电器", "charger"),
    ("f", "Lampe", "台灯", "lamp"),
    ("m", "Schreibtisch", "书桌", "desk"),
    ("m", "Bürostuhl", "办公椅", "office chair"),
    ("n", "Regal", "书架", "shelf"),
    ("n", "Bett", "床", "bed"),
    ("n", "Sofa", "沙发", "sofa"),
    ("m", "Teppich", "地毯", "carpet"),
    ("f", "Matratze", "床垫", "mattress"),
    ("m", "Spiegel", "镜子", "mirror"),
    ("n", "Fahrrad", "自行车", "bicycle"),
    ("m", "Helm", "头盔", "helmet"),
    ("m", "Rucksack", "背包", "backpack"),
    ("m", "Koffer", "行李箱", "suitcase"),
    ("n", "Zelt", "帐篷", "tent"),
    ("m", "Grill", "烧烤架", "grill"),
    ("m", "Rasenmäher", "割草机", "lawn mower"),
    ("f", "Bohrmaschine", "电钻", "drill"),
    ("f", "Heizung", "取暖器", "heater"),
    ("m", "Ventilator", "电风扇", "fan"),
    ("f", "Uhr", "手表", "watch"),
)

# German, Chinese, English.
CITIES: tuple[tuple[str, str, str], ...] = (
    ("Berlin", "柏林", "Berlin"), ("Hamburg", "汉堡", "Hamburg"), ("München", "慕尼黑", "Munich"),
    ("Köln", "科隆", "Cologne"), ("Frankfurt", "法兰克福", "Frankfurt"), ("Stuttgart", "斯图加特", "Stuttgart"),
    ("Dresden", "德累斯顿", "Dresden"), ("Leipzig", "莱比锡", "Leipzig"), ("Wien", "维也纳", "Vienna"),
    ("Shanghai", "上海", "Shanghai"), ("Shenzhen", "深圳", "Shenzhen"), ("Warschau", "华沙", "Warsaw"),
)

NAMES: tuple[tuple[str, str, str], ...] = (
    ("Anna", "安娜", "Anna"), ("Peter", "彼得", "Peter"), ("Maria", "玛丽亚", "Maria"), ("Paul", "保罗", "Paul"),
    ("Julia", "朱莉娅", "Julia"), ("Thomas", "托马斯", "Thomas"), ("Laura", "劳拉", "Laura"),
    ("Martin", "马丁", "Martin"), ("Sophie", "索菲", "Sophie"), ("Felix", "菲利克斯", "Felix"),
    ("Emma", "艾玛", "Emma"), ("Lukas", "卢卡斯", "Lukas"),
)

COLOURS: tuple[tuple[str, str, str], ...] = (
    ("Rot", "红色", "red"), ("Blau", "蓝色", "blue"), ("Grün", "绿色", "green"), ("Gelb", "黄色", "yellow"),
    ("Schwarz", "黑色", "black"), ("Weiß", "白色", "white"), ("Grau", "灰色", "grey"), ("Braun", "棕色", "brown"),
    ("Orange", "橙色", "orange"), ("Violett", "紫色", "purple"), ("Rosa", "粉色", "pink"), ("Silber", "银色", "silver"),
)

WEEKDAYS: tuple[tuple[str, str, str], ...] = (
    ("Montag", "星期一", "Monday"), ("Dienstag", "星期二", "Tuesday"), ("Mittwoch", "星期三", "Wednesday"),
    ("Donnerstag", "星期四", "Thursday"), ("Freitag", "星期五", "Friday"), ("Samstag", "星期六", "Saturday"),
)

# Numbers read the same in every language and are copied digit by digit.
ORDER_NUMBERS: tuple[str, ...] = tuple(str(number) for number in range(1000, 10000))
AMOUNTS: tuple[str, ...] = tuple(str(number) for number in range(12, 1000))
COUNTS: tuple[str, ...] = tuple(str(number) for number in range(2, 60))
DATES: tuple[str, ...] = tuple(
    f"{year}-{month:02d}-{day:02d}" for year in (2025, 2026) for month in range(1, 13) for day in range(1, 29)
)
